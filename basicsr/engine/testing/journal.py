"""What a test run has measured so far, image by image, so that one that was cut short is gone on with."""

import base64
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from basicsr.engine.testing.results import ImageResult
from basicsr.errors import UserError
from basicsr.options import display
from basicsr.utils.files import append, writing


class Journal:
    """One file a process, `progress-<number>.jsonl`: first what is measured, then a line an image.

    Args:
        folder: results/<name>. fingerprint: of all that the figures depend on. number: of the process.
        known: what earlier runs have measured, by the run's label and the image's name.
    """

    def __init__(
        self, folder: Path, fingerprint: str, number: int = 0, known: Mapping[tuple[str, str], ImageResult] | None = None
    ) -> None:
        self.file = folder / f"progress-{number}.jsonl"
        self.fingerprint, self.known = fingerprint, known or {}

    def done(self, label: str) -> dict[str, ImageResult]:
        """What earlier runs have measured under a label, by the images' names."""
        return {name: result for (run, name), result in self.known.items() if run == label}

    def add(self, label: str, result: ImageResult) -> None:
        values = {word: _written(value) if isinstance(value, dict) else value for word, value in asdict(result).items()}
        text = "\n" + json.dumps({"run": label, **values})  # on a line of its own, also behind one that was cut short
        if not self.file.exists():
            text = json.dumps({"measured": self.fingerprint}) + text
        with writing(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
        append(self.file, text)


def measured_in(folder: Path, fingerprint: str) -> dict[tuple[str, str], ImageResult]:
    """What the journals of a folder hold, but for lines that were cut short.

    Raises:
        UserError: they are of other weights or options.
    """
    found = {}
    for file in sorted(folder.glob("progress-*.jsonl")):
        first, *lines = [*map(_read, file.read_text(encoding="utf-8").splitlines())] or [{}]
        if first.get("measured") != fingerprint:
            raise UserError(
                f"--resume: {display(folder)} was measured with other weights, options or data; leave --resume out, which "
                "moves these results aside, or give another name."
            )
        for line in filter(None, lines):
            label, size = line.pop("run"), tuple(line["size"])
            figures = {
                word: {name: float(value) for name, value in line[word].items()} for word in ("metrics", "input_metrics")
            }
            features = {
                word: {name: _array(text) for name, text in line[word].items()} for word in ("features", "input_features")
            }
            found[label, line["name"]] = ImageResult(**{**line, **figures, **features, "size": size})
    return found


def _written(values: Mapping[str, float | np.ndarray]) -> dict[str, float | str]:
    """JSON knows no infinity and no arrays."""
    return {
        name: _text(value) if isinstance(value, np.ndarray) else value if math.isfinite(value) else str(value)
        for name, value in values.items()
    }


def _text(array: np.ndarray) -> str:
    """A file of NumPy's in base64."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode()


def _array(text: str) -> np.ndarray:
    return np.load(io.BytesIO(base64.b64decode(text)))  # runs nothing: it takes no pickles


def _read(line: str) -> dict:
    try:
        return json.loads(line)
    except ValueError:
        return {}
