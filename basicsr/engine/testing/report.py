"""What an evaluation found, in files: a JSON report of the run, a CSV file of images, tables."""

import csv
import io
import json
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from basicsr import __version__
from basicsr.engine.testing.evaluate import Run, means
from basicsr.engine.testing.tables import latex, markdown
from basicsr.options import display
from basicsr.utils.checkpoint import sha256
from basicsr.utils.files import write_bytes


def compare_with_expected(measured: Mapping[str, float], expected: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """For every published figure: itself, the measured one, and measured minus published."""
    return {
        name: {"published": value, "measured": measured[name], "difference": measured[name] - value}
        for name, value in expected.items()
        if name in measured
    }


def write_reports(
    folder: Path,
    runs: list[Run],
    *,
    name: str,
    protocols: Mapping[str, str],
    weights: Path | None,
    device: str,
    precision: str,
    expected: Mapping[str, float],
    expected_of_local: bool,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """report.json, images.csv, table.md and table.tex in `folder`; returns the report.

    Args:
        expected: published figures; expected_of_local: whether they are said of the -Local net. config: all options.
    """
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
        "expected": {
            run.network: compare_with_expected(means(run.images), expected)
            for run in runs
            if run.tlc == expected_of_local and expected
        },
        "runs": [_as_dict(run) for run in runs],
        "config": config,
    }
    write_bytes(folder / "report.json", json.dumps(report, indent=1).encode())
    write_bytes(folder / "images.csv", _csv(runs).encode())
    write_bytes(folder / "table.md", markdown(runs, protocols).encode())
    write_bytes(folder / "table.tex", latex(runs, protocols).encode())
    return report


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _as_dict(run: Run) -> dict[str, Any]:
    return {
        "network": run.network,
        "tlc": run.tlc,
        "dataset": run.dataset,
        "metrics": means(run.images),
        "input_metrics": means(run.images, "input_metrics"),
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
    names = list(runs[0].images[0].metrics)
    header = ["dataset", "network", "tlc", "image", "width", "height", *names, *(f"input_{n}" for n in names), "seconds"]
    writer.writerow(header)
    for run in runs:
        for image in run.images:
            values = [*(image.metrics[n] for n in names), *(image.input_metrics[n] for n in names), image.seconds]
            cells = [f"{value:.6f}" for value in values]
            writer.writerow([run.dataset, run.network, run.tlc, image.name, image.size[1], image.size[0], *cells])
    return out.getvalue()
