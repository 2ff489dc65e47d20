"""What a benchmark measured, as a table, as a picture and as data."""

import io
import math
from collections.abc import Sequence
from dataclasses import asdict

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from basicsr.engine.benchmark.measure import Result

HEAD = ("network", "size", "precision", "seconds", "Local", "ratio", "GMACs", "share", "memory", "Local ")
OUT_OF_MEMORY = "out of memory"


def table(results: Sequence[Result]) -> list[str]:
    rows = [HEAD]
    for r in results:
        seconds = [f"{t.seconds:.3g} s" if t else OUT_OF_MEMORY for t in (r.plain, r.local)]
        memory = ["-" if t is None or t.memory is None else f"{t.memory:.2f} GiB" for t in (r.plain, r.local)]
        ratio, share = ("-" if value is None else f"{value:.2f}" for value in (r.ratio, r.share))
        size = f"{r.case.size[0]}x{r.case.size[1]}"
        rows.append((r.case.label, size, r.case.precision, *seconds, ratio, f"{r.gmacs:.0f}", share, *memory))
    widths = (10, 10, 10, 14, 14, 6, 7, 6, 9, 9)
    return ["".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def picture(results: Sequence[Result], device: str) -> bytes:
    """Seconds and memory over the image's size, a PNG file."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    figure.suptitle(f"Cost of an image on {device}", fontsize=10)
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
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return out.getvalue()


def as_dict(result: Result) -> dict:
    return {**asdict(result), "ratio": result.ratio, "share": result.share}
