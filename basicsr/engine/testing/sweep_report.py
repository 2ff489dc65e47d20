"""What a sweep over windows found: a table for the screen, a CSV file of images, a JSON file, a figure."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from basicsr.engine.testing.results import ImageResult, gains, mean, means, seconds_per_image
from basicsr.errors import counted
from basicsr.utils.files import write_bytes
from basicsr.utils.strict_json import strict_json


@dataclass(frozen=True)
class Point:
    """What was measured with a window. base_size: None for the plain network.

    covered: images that lie in the window. failed: why, by the names of images that could not be measured.
    whole: the figures of metrics of the whole set.
    """

    base_size: int | None
    images: list[ImageResult]
    covered: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    whole: dict[str, float] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """Of every metric: the mean over the images, or what it makes of the whole set."""
        return means(self.images) | self.whole

    def values(self, metric: str) -> list[float]:
        return [image.metrics[metric] for image in self.images]


@dataclass(frozen=True)
class Sweep:
    """Points of a network on a data set: the plain network first, then windows from small to large.

    metric: of images, which decides which is best. sign: 1 where higher is better, else -1. weights: their SHA-256.
    """

    name: str
    network: str
    dataset: str
    patch: int
    metric: str
    sign: int
    protocols: dict[str, str]
    weights: str | None
    device: str
    points: tuple[Point, ...] = ()

    @property
    def plain(self) -> Point:
        return self.points[0]

    @property
    def best(self) -> Point:
        """By the mean gain, which the plain network has none of."""
        return max(self.points, key=self.gain)

    def gain(self, point: Point) -> float:
        """The mean over the images whose gain is finite; 0 where there are none."""
        value = mean(self.gains(point))
        return 0.0 if math.isnan(value) else value

    def gains(self, point: Point) -> list[float]:
        """Over the plain network, image by image; more is better, whatever the metric's direction."""
        return gains(self.plain.images, point.images, self.metric, lower=self.sign < 0)

    def gaining(self, point: Point) -> int:
        return sum(gain > 0 for gain in self.gains(point))


def table(sweep: Sweep) -> str:
    """A line a window, the plain network last, the best one marked."""
    names, count = list(sweep.protocols), len(sweep.plain.images)
    head = f"{'base_size':>10}{'patches':>9}" + "".join(f"{name:>11}" for name in names)
    lines = [
        f"{sweep.network}, trained on patches of {sweep.patch}, on {counted(count, 'image')} of {sweep.dataset}",
        f"{head}{f'gain, {sweep.metric}':>14}{'gaining':>10}{'covered':>9}{'s/image':>9}",
    ]
    for point in [*sweep.points[1:], sweep.plain]:
        size = ("global", "plain") if point.base_size is None else (point.base_size, f"{point.base_size / sweep.patch:.3g}x")
        figures = point.figures()
        values = "".join(f"{figures[name]:>11.4f}" for name in names)
        gain = ("", "", "")
        if point.base_size is not None:
            gain = (f"{sweep.gain(point):+.4f}", f"{sweep.gaining(point)}/{count}", f"{point.covered}/{count}")
        seconds = seconds_per_image(point.images)
        mark = "  <- best" if point is sweep.best else ""
        lines.append(f"{size[0]:>10}{size[1]:>9}{values}{gain[0]:>14}{gain[1]:>10}{gain[2]:>9}{seconds:>9.2f}{mark}")
    return "\n".join([*lines, *(f"{name}: {protocol}" for name, protocol in sweep.protocols.items())])


def write(folder: Path, sweep: Sweep) -> list[Path]:
    """sweep.json, sweep.csv (every image) and sweep.png in `folder`; returns their paths."""
    files = [folder / f"sweep.{suffix}" for suffix in ("json", "csv", "png")]
    write_bytes(files[0], strict_json(_as_dict(sweep)).encode())
    write_bytes(files[1], _csv(sweep).encode())
    draw(files[2], sweep)
    return files


def _as_dict(sweep: Sweep) -> dict[str, Any]:
    fields = ("name", "network", "dataset", "patch", "metric", "protocols", "weights", "device")
    windows = [
        {
            "base_size": _size(point),
            "metrics": point.figures(),
            "gain": sweep.gain(point),
            "gaining": sweep.gaining(point),
            "covered": point.covered,
            "failed": point.failed,
            "seconds_per_image": seconds_per_image(point.images),
        }
        for point in sweep.points
    ]
    return {
        **{field: getattr(sweep, field) for field in fields},
        "images": len(sweep.plain.images),
        "best": _size(sweep.best),
        "windows": windows,
    }


def _csv(sweep: Sweep) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["base_size", "image", "width", "height", *sweep.plain.images[0].metrics, "seconds"])
    for point in sweep.points:
        for image in point.images:
            values = [*image.metrics.values(), image.seconds]
            writer.writerow([_size(point), image.name, *image.size[::-1], *(f"{value:.6f}" for value in values)])
    return out.getvalue()


def _size(point: Point) -> int | str:
    return "global" if point.base_size is None else point.base_size


def draw(file: Path, sweep: Sweep) -> None:
    """The metric over the window; `global` is the plain network, and a ring is around the best."""
    figure = Figure(figsize=(6.6, 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    values = {point.base_size: mean(point.values(sweep.metric)) for point in sweep.points}
    plain = values.pop(None)
    line = draw_windows(axes, sweep.patch, values, plain, color="C0", marker="o")
    best = list(values).index(sweep.best.base_size) if sweep.best.base_size else len(values)
    axes.plot(
        line[0][best], line[1][best], "o", color="C3", fillstyle="none", markersize=13, label=f"best: {_size(sweep.best)}"
    )
    axes.set_xticks(line[0], [*(f"{base}\n{base / sweep.patch:.3g}x" for base in values), "global\n(plain)"])
    axes.set_xlabel(f"window: base_size in pixels, and in training patches of {sweep.patch}")
    axes.set_ylabel(f"{sweep.metric}, mean over {counted(len(sweep.plain.images), 'image')}")
    axes.set_title(f"{sweep.network} on {sweep.dataset}")
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(file, figure)


def draw_windows(
    axes: Axes, patch: int, values: Mapping[int, float], plain: float, *, color: str, marker: str, label: str | None = None
) -> tuple[Sequence[float], Sequence[float]]:
    """`values` by window over the windows in patches, dotted on to the value of the plain network; returns all x and y."""
    x, y = [base / patch for base in values], list(values.values())
    end = x[-1] + 1
    axes.plot(x, y, marker=marker, color=color, label=label)
    axes.plot([x[-1], end], [y[-1], plain], ":", marker=marker, markevery=[1], color=color)
    return [*x, end], [*y, plain]


def save_figure(file: Path, figure: Figure) -> None:
    out = io.BytesIO()
    # no date or version inside: the same figures give the same file
    figure.savefig(out, format="png", metadata={"Software": None})
    write_bytes(file, out.getvalue())
