"""What was measured of clips, as a table, as data and as a picture."""

import io
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from basicsr.engine.flicker.measure import TRUTH, Result, means

LONGEST = 4  # columns of a strip for each of its rows, so that time is to be seen


def table(results: list[Result]) -> str:
    """Markdown: a row for each way, means over all frames of all clips; a blank where a figure has no meaning."""
    found = means(results)
    names = list(dict.fromkeys(name for own in found.values() for name in own))
    cells = [["", *names]] + [[way, *(_figure(own.get(name)) for name in names)] for way, own in found.items()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def as_dict(results: list[Result], about: Mapping[str, Any]) -> dict[str, Any]:
    """What report.json holds."""
    clips = [
        {
            "name": result.clip.name,
            "step": result.clip.step,
            "means": means([result]),
            "frames": [asdict(frame) for frame in result.frames],
        }
        for result in results
    ]
    return {**about, "means": means(results), "clips": clips}


def picture(result: Result) -> bytes:
    """A PNG file of a clip: flicker over its frames, and a row of pixels over time for each way, time going down."""
    ways = list(result.strips)
    length, width = result.strips[ways[0]].shape[:2]
    span = min(width, LONGEST * length)
    left = (width - span) // 2
    figure = Figure(figsize=(10, 3.2 + 9.2 * len(ways) * length / span), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    above, *below = figure.subplots(
        len(ways) + 1, 1, squeeze=False, height_ratios=[2.6, *[9.2 * length / span] * len(ways)]
    ).ravel()
    for way in ways:
        points = [
            (i, frame.figures[way]["flicker"]) for i, frame in enumerate(result.frames) if "flicker" in frame.figures[way]
        ]
        style = {"color": "black", "linestyle": "--"} if way == TRUTH else {}
        above.plot([i for i, _ in points], [value for _, value in points], label=way, linewidth=1.2, **style)
    above.set(title=f"{result.clip.name}: flicker of each frame, of 255", xlabel="frame")
    above.xaxis.set_major_locator(MaxNLocator(integer=True))
    above.grid(alpha=0.3)
    figure.legend(loc="outside upper center", fontsize=9, ncols=len(ways))
    for axes, way in zip(below, ways, strict=True):
        axes.imshow(result.strips[way][:, left : left + span], interpolation="nearest", aspect="equal")
        axes.set_title(f"{way}: one row of pixels, frame below frame", fontsize=9)
        axes.set_axis_off()
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    if math.isnan(value):  # a PSNR of frames that are their truth
        return "-"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"
