"""What all metrics do to images first: one layout, one size, one peak; luma."""

import numpy as np
import torch

from basicsr.errors import UserError

Image = np.ndarray | torch.Tensor

_PEAKS = {torch.uint8: 255.0, torch.uint16: 65535.0}
_BGR_TO_Y = (24.966, 128.553, 65.481)  # ITU-R BT.601, studio range, for B, G, R in [0, 1]; plus 16


def to_chw(image: Image, input_order: str, device: str | torch.device | None = None) -> torch.Tensor:
    """An image as the metrics take it to a (C, H, W) tensor of the same dtype, C = 1 or 3."""
    if input_order not in ("HWC", "CHW"):
        raise UserError(f"input_order is {input_order!r}; use 'HWC' or 'CHW'.")
    # The copy makes arrays that are flipped (img[..., ::-1]) or read-only acceptable to torch.
    tensor = torch.from_numpy(image.copy()) if isinstance(image, np.ndarray) else image.detach()
    chw = tensor[None] if tensor.ndim == 2 else tensor
    if tensor.ndim == 3 and input_order == "HWC":
        chw = tensor.permute(2, 0, 1)
    if chw.ndim != 3 or chw.shape[0] not in (1, 3):
        raise UserError(
            f"an image of shape {tuple(tensor.shape)} does not fit input_order {input_order!r}; give one image, (H, W) or, "
            "with 1 or 3 channels, (H, W, C) for 'HWC' and (C, H, W) for 'CHW'."
        )
    return chw.to(device).contiguous()


def pair(img1: Image, img2: Image, input_order: str, device: str | torch.device | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Both images as (C, H, W) on one device; UserError where their shapes differ."""
    a = to_chw(img1, input_order, device)
    b = to_chw(img2, input_order, a.device)
    if a.shape != b.shape:
        raise UserError(
            f"the images differ in shape (channels, height, width), {tuple(a.shape)} and {tuple(b.shape)}; make them equal."
        )
    return a, b


def cropped(image: torch.Tensor, border: int) -> torch.Tensor:
    """(C, H, W) without `border` pixels at each side."""
    height, width = image.shape[1:]
    if border < 0 or 2 * border >= min(height, width):
        raise UserError(
            f"crop_border {border} leaves nothing of an image of {height}x{width} pixels; use a smaller one, 0 or more."
        )
    return image[:, border : height - border, border : width - border]


def peak_of(dtype: torch.dtype, data_range: float | None = None) -> float:
    """The value of white: `data_range`, or what the dtype implies."""
    if data_range is not None:
        if not data_range > 0:
            raise UserError(f"data_range is {data_range}; give the peak value, e.g. 255 or 1.")
        return float(data_range)
    if dtype.is_floating_point:
        return 1.0
    if dtype not in _PEAKS:
        raise UserError(
            f"images of {name_of(dtype)} have no known peak; give data_range, or convert to uint8, uint16 or float."
        )
    return _PEAKS[dtype]


def luma(bgr: torch.Tensor, peak: float) -> torch.Tensor:
    """(3, H, W) with white at `peak` to Y, (1, H, W) float64 in 16..235."""
    weights = torch.tensor(_BGR_TO_Y, dtype=torch.float64, device=bgr.device).view(3, 1, 1)
    return 16 + (bgr.double() / peak * weights).sum(0, keepdim=True)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
