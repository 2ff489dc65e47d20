"""What an evaluation found, in files: a JSON report of the run, a CSV file of images, tables."""

import csv
import io
import platform
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from basicsr import __version__
from basicsr.engine.testing.results import Run, average, by_network, identical, plain_and_local, with_groups
from basicsr.engine.testing.tables import confidence_of_gain, gain_of_tlc, in_markdown, latex, markdown, sentences
from basicsr.options import display
from basicsr.utils.checkpoint import sha256
from basicsr.utils.files import write_bytes
from basicsr.utils.strict_json import strict_json


@dataclass(frozen=True)
class Published:
    """Figures of one data set, one of its groups, or the average.

    figures: by metric, of the plain net (False) and of the -Local one (True).
    images: how many they are published for; None: that is not said. label: follows on the network's name.
    """

    figures: Mapping[bool, Mapping[str, float]]
    images: int | None = None
    label: str = ""


def compare_with_published(
    measured: Mapping[str, float], count: int, figures: Mapping[str, float], images: int | None
) -> dict[str, dict[str, float]]:
    """For every published figure: itself, the measured one, and measured minus published.

    Args:
        count: of the images that were measured; where it is not that of the published figures, there is no difference, but
            both numbers.
    """
    found = {}
    for name, value in figures.items():
        if name not in measured:
            continue
        found[name] = {"published": value, "measured": measured[name], "difference": measured[name] - value}
        if images not in (None, count):
            found[name] |= {"difference": None, "published_images": images, "images": count}
    return found


def _compared(views: list[Run], published: Mapping[str | None, Published]) -> dict[str, Any]:
    """By network, and what the figures are of where that must be said."""
    found = {}
    for run in views:
        if (of := published.get(run.dataset)) and of.figures[run.tlc]:
            found[run.network + of.label] = compare_with_published(
                run.figures(), len(run.images), of.figures[run.tlc], of.images
            )
    of = published.get(None)
    for network, runs in by_network(views).items():
        if of and of.figures[runs[0].tlc]:
            count = sum(len(run.images) for run in runs)
            found[network + of.label] = compare_with_published(average(runs), count, of.figures[runs[0].tlc], of.images)
    return found


def write_reports(
    folder: Path,
    runs: list[Run],
    *,
    name: str,
    protocols: Mapping[str, str],
    weights: Path | None,
    device: str,
    precision: str,
    published: Mapping[str | None, Published],
    config: Mapping[str, Any],
    lower: Collection[str] = (),
) -> dict[str, Any]:
    """report.json, images.csv, table.md and table.tex in `folder`; returns the report, with null for what is not finite.

    Args:
        published: figures by what they are of: a data set, `<data set>, <group>`, or None, the average.
        config: all options. lower: names of the metrics of which less is better.
    """
    views = with_groups(runs)
    pairs = {
        dataset: pair
        for dataset in dict.fromkeys(run.dataset for run in views)
        if (pair := plain_and_local([run for run in views if run.dataset == dataset]))
    }
    several = len({run.dataset for run in runs}) > 1
    report = {
        "name": name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "protocol": dict(protocols),
        "weights": {"file": display(weights), "sha256": sha256(weights)} if weights else None,
        "device": device,
        "precision": precision,
        "versions": {
            "tlc-restoration": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "opencv": cv2.__version__,
        },
        "lower_is_better": [name for name in protocols if name in lower],
        "expected": _compared(views, published),
        "gain": {dataset: gain_of_tlc(*pair, lower) for dataset, pair in pairs.items()},
        "gain_confidence": {
            dataset: {name: asdict(sure) for name, sure in confidence_of_gain(*pair, lower).items()}
            for dataset, pair in pairs.items()
        },
        "average": {network: average(of) for network, of in by_network(runs).items()} if several else {},
        "groups": [_summary(run) for run in views if run.group],
        "runs": [_as_dict(run) for run in runs],
        "config": config,
    }
    write_bytes(folder / "report.json", strict_json(report).encode())
    write_bytes(folder / "images.csv", _csv(runs).encode())
    _write_tables(folder, views, protocols, lower)
    return report


def _write_tables(folder: Path, runs: list[Run], protocols: Mapping[str, str], lower: Collection[str]) -> None:
    sure = sentences(runs, lower)
    in_words = "".join(f"\n{in_markdown(sentence)}.\n" for sentence in sure)
    comment = "".join(f"% {' '.join(sentence.split())}.\n" for sentence in sure)
    write_bytes(folder / "table.md", (markdown(runs, protocols, lower=lower) + in_words).encode())
    write_bytes(folder / "table.tex", (latex(runs, protocols, lower=lower) + comment).encode())


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _summary(run: Run) -> dict[str, Any]:
    return {
        "network": run.network,
        "tlc": run.tlc,
        "dataset": run.dataset,
        **({"count": len(run.images)} if run.group else {}),
        "metrics": run.figures(),
        "identical": identical(run.images),
        "input_metrics": run.figures("input_metrics"),
        "input_identical": identical(run.images, "input_metrics"),
    }


def _as_dict(run: Run) -> dict[str, Any]:
    return {
        **_summary(run),
        "failed": run.failed,
        "seconds_per_image": run.seconds_per_image,
        "images": [
            {
                "name": image.name,
                "width": image.size[1],
                "height": image.size[0],
                "metrics": image.metrics,
                "input_metrics": image.input_metrics,
                "seconds": image.seconds,
            }
            for image in run.images
        ],
    }


def _csv(runs: list[Run]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = list(dict.fromkeys(name for run in runs for name in run.images[0].metrics))
    header = ["dataset", "network", "tlc", "image", "width", "height", *names, *(f"input_{n}" for n in names), "seconds"]
    writer.writerow(header)
    for run in runs:
        for image in run.images:
            values = [*(image.metrics.get(n) for n in names), *(image.input_metrics.get(n) for n in names), image.seconds]
            cells = ["" if value is None else f"{value:.6f}" for value in values]
            writer.writerow([run.dataset, run.network, run.tlc, image.name, image.size[1], image.size[0], *cells])
    return out.getvalue()
