"""The curves of a training, drawn from its metrics.csv."""

import csv
import io
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from basicsr.utils.files import write_bytes

PANELS = (("loss", "training loss"), ("psnr", "training PSNR, dB"), ("grad_norm", "gradient norm"), ("lr", "learning rate"))


def draw_curves(table: Path, picture: Path, *, title: str) -> None:
    """A panel for each of loss, training PSNR, gradient norm, learning rate and validation metric over the iterations."""
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    validated = [key for key in rows[0] if key.startswith("val_")] if rows else []
    panels = [*((key, f"validation {key.removeprefix('val_').replace('_', ' ')}") for key in validated), *PANELS]
    panels = [(key, label, points) for key, label in panels if (points := _points(rows, key))]
    if not panels:
        return
    lines = -(-len(panels) // 3)
    figure = Figure(figsize=(12, 3.2 * lines), layout="constrained")
    figure.suptitle(title)
    for number, (key, label, points) in enumerate(panels, start=1):
        axes = figure.add_subplot(lines, min(3, len(panels)), number)
        x, y = zip(*points, strict=True)
        axes.plot(x, y, marker="o" if key.startswith("val_") else None, markersize=3, linewidth=1)
        if key == "grad_norm" and min(y) > 0:
            axes.set_yscale("log")
        axes.set_title(label, fontsize=10)
        axes.set_xlabel("iteration", fontsize=8)
        axes.grid(alpha=0.3)
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    write_bytes(picture, out.getvalue())


def _points(rows: list[dict[str, str]], key: str) -> list[tuple[int, float]]:
    return [(int(row["iter"]), float(row[key])) for row in rows if row.get(key)]
