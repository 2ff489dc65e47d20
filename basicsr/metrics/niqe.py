"""NIQE, which needs no ground truth, through the optional package pyiqa.

A. Mittal, R. Soundararajan, A. C. Bovik, "Making a 'completely blind' image quality analyzer", IEEE SPL 20(3), 2013.
pyiqa is licensed for non-commercial use (PolyForm Noncommercial); nothing else in the toolbox needs it. There is no other kept
package with NIQE: torchmetrics, piq, piqa and sewar have none, and scikit-video's, of 2018, calls what SciPy took out in 1.3.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import torch

from basicsr.errors import UserError
from basicsr.metrics.extras import imported, loaded
from basicsr.metrics.pixels import Image, cropped, peak_of, to_chw
from basicsr.metrics.protocol import metric, of_pixels

_BLOCK = 96  # the statistics are of blocks of 96x96 pixels
_WEIGHTS = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/niqe_modelparameters.mat"


def _ready(device: str | torch.device | None = None, **_options: object) -> None:
    _evaluator(torch.device(device or "cpu"))


@metric(
    higher_is_better=False,
    needs_gt=False,
    protocol=of_pixels(rgb="NIQE (pyiqa's, for non-commercial use, with its niqe_modelparameters.mat), luma, no reference"),
    smallest=(_BLOCK, 2 * _BLOCK),
    ready=_ready,
)
def calculate_niqe(
    img1: Image,
    crop_border: int = 0,
    input_order: Literal["HWC", "CHW"] = "HWC",
    img2: Image | None = None,
    data_range: float | None = None,
    device: str | torch.device | None = None,
) -> float:
    """Natural image quality evaluator of one image, computed by pyiqa on its Y channel.

    Args:
        img1: numpy array or CPU or CUDA tensor, (H, W), or with 1 or 3 channels (H, W, C) or, for input_order "CHW",
            (C, H, W). COLOUR IS BGR, as in OpenCV, in both orders. Values outside the range are clamped.
        crop_border: pixels cut from each side first.
        input_order: order of the axes of the images; reports and validation have HWC.
        img2: not looked at; there so that every metric can be called with the same arguments.
        data_range: the peak value; by default 255 for uint8, 65535 for uint16, 1 for floats.
        device: where to compute; by default where img1 is (an array: on the CPU).

    Returns:
        About 2 to 10 for photographs; lower is better.

    Raises:
        UserError: pyiqa or its weights cannot be had here, the image holds fewer than two blocks of 96x96 pixels, or as
            `calculate_psnr`.
    """
    image = cropped(to_chw(img1, input_order, device), crop_border)
    _, height, width = image.shape
    if (height // _BLOCK) * (width // _BLOCK) < 2:
        raise UserError(f"an image of {height}x{width} pixels (border cut) is too small for NIQE; give at least 96x192.")
    rgb = (image.double() / peak_of(image.dtype, data_range)).clamp(0, 1).float().flip(0)
    return float(_evaluator(rgb.device)(rgb[None]))


@lru_cache(maxsize=1)
def _evaluator(device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """pyiqa's NIQE: (1, C, H, W) RGB in [0, 1] to a score."""
    pyiqa = imported("calculate_niqe", "niqe", "pyiqa")
    return loaded("calculate_niqe", _WEIGHTS, lambda: pyiqa.create_metric("niqe", device=device), folder="pyiqa")
