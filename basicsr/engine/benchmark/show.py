"""What a benchmark measured, as a table and as a picture; of a GPU with what only a GPU tells."""

import io
import math
from collections.abc import Sequence
from itertools import product

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from basicsr.engine.benchmark.results import Result, Timing

HEAD = ("network", "size", "precision", "seconds", "Local", "ratio", "GMACs", "share", "memory", "Local ")
WIDTHS = (10, 10, 10, 14, 14, 6, 7, 6, 9, 9)
GPU_HEAD = (
    *("network", "size", "precision", "time", "Local", "ratio", "floor", "product", "copy"),
    *("kernels", "Local", "in kernels", "Local", "memory", "Local"),
)
GPU_WIDTHS = (10, 10, 10, 14, 14, 6, 9, 8, 6, 8, 7, 11, 9, 9, 9)
OUT_OF_MEMORY = "out of memory"


def table(results: Sequence[Result]) -> list[str]:
    """Line by line, the head first."""
    on_gpu = any(r.copy_rate for r in results)
    rows, widths = [GPU_HEAD if on_gpu else HEAD], GPU_WIDTHS if on_gpu else WIDTHS
    for r in results:
        first = (r.case.label, _size(r), r.case.precision)
        rows.append((*first, *(_gpu_cells(r) if on_gpu else _cells(r))))
    return ["".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cells(r: Result) -> list[str]:
    seconds = [f"{t.seconds:.3g} s" if t else OUT_OF_MEMORY for t in (r.plain, r.local)]
    ratio, share = ("-" if value is None else f"{value:.2f}" for value in (r.ratio, r.share))
    return [*seconds, ratio, f"{r.gmacs:.0f}", share, *_memory(r)]


def _gpu_cells(r: Result) -> list[str]:
    variants = (r.plain, r.local)
    times = [as_time(t.seconds) if t else OUT_OF_MEMORY for t in variants]
    ratio = "-" if r.ratio is None else f"{r.ratio:.2f}"
    shares = ["-" if value is None else f"{value:.0%}" for value in (r.share, r.copy_share)]
    kernels = [t.kernels if t else None for t in variants]
    counts = ["-" if k is None else str(k.count) for k in kernels]
    inside = ["-" if k is None else as_time(k.seconds) for k in kernels]
    return [*times, ratio, as_time(r.floor), *shares, *counts, *inside, *_memory(r)]


def _memory(r: Result) -> list[str]:
    return ["-" if t is None or t.memory is None else f"{t.memory:.2f} GiB" for t in (r.plain, r.local)]


def _size(r: Result) -> str:
    return f"{r.case.size[0]}x{r.case.size[1]}"


def as_time(seconds: float) -> str:
    """Three digits, in milliseconds below a second."""
    return f"{1e3 * seconds:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def picture(results: Sequence[Result], device: str) -> bytes:
    """A PNG file: of a GPU bars of seconds for every network and precision, else seconds and memory over the image's size."""
    draw = _draw_bars if any(r.copy_rate for r in results) else _draw_lines
    figure = draw(results)
    figure.suptitle(f"Cost of an image on {device}", fontsize=10)
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return out.getvalue()


def _draw_bars(results: Sequence[Result]) -> Figure:
    """A panel for every size and precision: plain and -Local beside each other, and the floor as a line across both."""
    sizes, precisions = (
        list(dict.fromkeys(values)) for values in zip(*((_size(r), r.case.precision) for r in results), strict=True)
    )
    figure = Figure(figsize=(4 * len(precisions) + 0.5, 3.4 * len(sizes) + 0.6), layout="constrained")
    panels = figure.subplots(len(sizes), len(precisions), squeeze=False).flat
    for axes, (size, precision) in zip(panels, product(sizes, precisions), strict=True):
        group = [r for r in results if (_size(r), r.case.precision) == (size, precision)]
        for number, (variant, label) in enumerate((("plain", "plain"), ("local", "with TLC"))):
            _bars(axes, [getattr(r, variant) for r in group], 0.4 * number - 0.2, f"C{number}", label)
        for place, r in enumerate(group):
            axes.plot([place - 0.42, place + 0.42], [1e3 * r.floor] * 2, "k-", linewidth=1.5, label="_" * bool(place) + "floor")
        axes.set_xticks(range(len(group)), [r.case.label for r in group], fontsize=8)
        axes.set(title=f"{size}, {precision}", ylabel="milliseconds")
        axes.margins(y=0.12)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    figure.axes[0].legend(fontsize=8)
    return figure


def _bars(axes: Axes, timings: Sequence[Timing | None], offset: float, colour: str, label: str) -> None:
    heights = [1e3 * t.seconds if t else 0 for t in timings]
    bars = axes.bar([place + offset for place in range(len(heights))], heights, 0.38, color=colour, label=label)
    labels = [f"{height:.3g}" if t else OUT_OF_MEMORY for height, t in zip(heights, timings, strict=True)]
    for text, t in zip(axes.bar_label(bars, labels, fontsize=7, padding=2), timings, strict=True):
        text.set_rotation(0 if t else 90)


def _draw_lines(results: Sequence[Result]) -> Figure:
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, 2)
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.case.label, result.case.precision), []).append(result)
    for axes, value, label in zip(panels, ("seconds", "memory"), ("seconds", "memory beyond the weights, GiB"), strict=True):
        for number, ((net, precision), group) in enumerate(groups.items()):
            for variant, style in (("plain", "o-"), ("local", "x--")):
                points = [(math.prod(r.case.size) / 1e6, getattr(getattr(r, variant), value, None)) for r in group]
                points = sorted(point for point in points if point[1])
                if points:
                    title = f"{net}{'Local' if variant == 'local' else ''} {precision}"
                    axes.plot(*zip(*points, strict=True), style, color=f"C{number}", markersize=5, linewidth=1, label=title)
        axes.set(xscale="log", yscale="log", xlabel="megapixels", ylabel=label)
        axes.grid(alpha=0.3, which="both")
    panels[0].legend(fontsize=7)
    return figure
