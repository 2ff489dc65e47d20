"""What an evaluation found: tables for the screen, a CSV file of images, a JSON report of the run."""

import csv
import io
import json
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from basicsr import __version__
from basicsr.engine.testing.evaluate import ImageResult, mean, means
from basicsr.options import display
from basicsr.utils.checkpoint import sha256
from basicsr.utils.image import write_bytes


@dataclass(frozen=True)
class Run:
    """One network on one data set."""

    network: str
    tlc: bool
    dataset: str
    images: list[ImageResult]

    @property
    def seconds_per_image(self) -> float:
        return mean([image.seconds for image in self.images])


def table(runs: list[Run], protocols: Mapping[str, str], *, timed: bool = True) -> str:
    """A line a network, the gain of TLC under a pair of them, and the protocol of every metric; `timed`: seconds, too."""
    names = list(protocols)
    lines = [f"{'':<24}" + "".join(f"{name:>10}" for name in names) + f"{'s/image':>10}" * timed]
    for dataset in dict.fromkeys(run.dataset for run in runs):
        these = [run for run in runs if run.dataset == dataset]
        lines.append(f"{dataset}, {len(these[0].images)} images")
        lines.append(_row("  degraded input", means(these[0].images, "input_metrics"), names, None))
        lines += [_row(f"  {r.network}", means(r.images), names, r.seconds_per_image if timed else None) for r in these]
        if pair := plain_and_local(these):
            lines.append(
                _row("  gain of TLC", difference(means(pair[0].images), means(pair[1].images)), names, None, signed=True)
            )
    lines += [f"{name}: {protocol}" for name, protocol in protocols.items()]
    return "\n".join(lines)


def image_table(plain: Run, local: Run, metric: str) -> str:
    """A line an image: the metric of the input, the plain and the -Local net, and the gain."""
    lines = [f"{metric:<28}{'input':>10}{'plain':>10}{'local':>10}{'gain':>10}"]
    for a, b in zip(plain.images, local.images, strict=True):
        values = (a.input_metrics[metric], a.metrics[metric], b.metrics[metric])
        lines.append(f"  {a.name:<26}" + "".join(_number(v) for v in values) + _number(values[2] - values[1], signed=True))
    return "\n".join(lines)


def plain_and_local(runs: list[Run]) -> tuple[Run, Run] | None:
    """The run without and the one with TLC, if both are there."""
    by_tlc = {run.tlc: run for run in runs}
    return (by_tlc[False], by_tlc[True]) if len(by_tlc) == 2 else None


def difference(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in before}


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
    """report.json and images.csv in `folder`; returns the report.

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


def _row(label: str, values: Mapping[str, float], names: list[str], seconds: float | None, signed: bool = False) -> str:
    cells = "".join(_number(values[name], signed) for name in names)
    return f"{label:<24}{cells}" + (f"{seconds:>10.2f}" if seconds is not None else "")


def _number(value: float, signed: bool = False) -> str:
    """Two digits for dB, four for figures about 1."""
    digits = 4 if abs(value) < 2 else 2
    return f"{value:>+10.{digits}f}" if signed else f"{value:>10.{digits}f}"
