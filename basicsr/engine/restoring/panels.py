"""Pictures side by side, with a zoomed crop under each."""

import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from basicsr.utils.files import write_bytes


@dataclass(frozen=True)
class Panel:
    label: str
    image: np.ndarray  # (H, W, 3) RGB in [0, 1]; black where a broken network's is no number


def draw(file: Path, panels: list[Panel]) -> None:
    """Write a PNG: the panels in a row, and under each the same crop, enlarged.

    Args:
        panels: the input first, then at least one restored image; all of one size.
    """
    height, width = panels[0].image.shape[:2]
    side = max(8, min(height, width) // 5)
    top, left = _worth_a_look(panels[1].image, panels[min(2, len(panels) - 1)].image, side)
    figure = Figure(figsize=(4.8 * len(panels), 4.8 * height / width + 5.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(panels), squeeze=False, height_ratios=(height / width, 1))
    for (above, below), panel in zip(axes.T, panels, strict=True):
        image = np.nan_to_num(panel.image).clip(0, 1)  # Matplotlib 3.8 does not draw what is no number
        above.imshow(image, interpolation="antialiased")
        above.set_title(panel.label, fontsize=14)
        above.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor="yellow", linewidth=1.5))
        below.imshow(image[top : top + side, left : left + side], interpolation="nearest")
        for axis in (above, below):
            axis.set_axis_off()
    out = io.BytesIO()
    figure.savefig(out, format="png")
    write_bytes(file, out.getvalue())


def _worth_a_look(first: np.ndarray, second: np.ndarray, side: int) -> tuple[int, int]:
    """Top left corner of the side x side square in which two images differ most, where there is detail to look at."""

    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(x, -1, (side, side), anchor=(0, 0))

    detail = np.abs(cv2.Laplacian(second.mean(2), -1))
    score = mean(np.abs(first - second).mean(2)) * mean(detail)
    inside = score[: score.shape[0] - side + 1, : score.shape[1] - side + 1]
    return tuple(int(i) for i in np.unravel_index(inside.argmax(), inside.shape))
