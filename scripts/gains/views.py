"""Parts of photographs: where there is most to see, and how they are drawn, each over its error."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Panel:
    title: str
    image: np.ndarray  # (H, W, 3) RGB in [0, 1]
    error: np.ndarray  # (H, W)


def as_picture(image: torch.Tensor) -> np.ndarray:
    """(3, H, W) -> (H, W, 3), clamped."""
    return image.float().numpy().transpose(1, 2, 0).clip(0, 1)


def means_of_squares(x: np.ndarray, side: int) -> np.ndarray:
    """(H, W) -> (H - side + 1, W - side + 1): the mean over the square that begins at each pixel."""
    return cv2.boxFilter(x, -1, (side, side), anchor=(0, 0))[: x.shape[0] - side + 1, : x.shape[1] - side + 1]


def place_of_most(worth: np.ndarray) -> tuple[int, int, float]:
    """Row and column of the largest value, and it."""
    row, column = np.unravel_index(worth.argmax(), worth.shape)
    return int(row), int(column), float(worth.max())


def quality_here(error: np.ndarray, whole: float) -> str:
    """PSNR of a part, whose error is given, and of the whole picture."""
    return f"{psnr(error):.2f} dB; all of it {whole:.2f}"


def psnr(error: np.ndarray) -> float:
    return -10 * math.log10(max(1e-10, float((error**2).mean())))


def draw_panels(
    above: Sequence[Axes],
    below: Sequence[Axes],
    panels: Sequence[Panel],
    target: np.ndarray,
    colours: dict,
    unit: str,
) -> None:
    """The images and the target, and below them the errors and what their colours mean (`unit`).

    Args:
        above, below: at least one more than panels; the last ones are the target's and the colour bar's.
        colours: cmap, vmin and vmax.
    """
    for top, bottom, panel in zip(above, below, panels, strict=False):
        top.imshow(panel.image)
        top.set_title(panel.title, fontsize=13)
        shown = bottom.imshow(panel.error, **colours)
    above[-1].imshow(target)
    above[-1].set_title("target", fontsize=13)
    below[-1].set_axis_off()
    bar = below[-1].figure.colorbar(shown, cax=below[-1].inset_axes((0.05, 0.05, 0.08, 0.9)))
    bar.set_label(unit, fontsize=13)


def jpeg(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="jpg", pil_kwargs={"quality": 90})
    return out.getvalue()
