"""PSNR and two SSIMs of an image pair; colour images are BGR, as OpenCV reads them.

The papers' protocol: the restored image clamped to [0, 1], times 255, rounded to uint8, against the uint8 ground truth,
RGB (for which the order of the channels does not matter), no border.

Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from error visibility to structural
similarity", IEEE TIP 13(4), 2004: SSIM, its constants and its window. ITU-R BT.601: luma (Y).
"""

import math
from typing import Literal

import numpy as np
import torch
from skimage.metrics import structural_similarity

from basicsr.errors import UserError
from basicsr.metrics.protocol import metric, of_pixels

Image = np.ndarray | torch.Tensor

_PEAKS = {torch.uint8: 255.0, torch.uint16: 65535.0}
_BGR_TO_Y = (24.966, 128.553, 65.481)  # BT.601 studio range, for B, G, R in [0, 1]; plus 16
_Y_PEAK = 255.0
_RADIUS, _SIGMA = 5, 1.5  # of the Gaussian window, 11 pixels wide
_WINDOW = 2 * _RADIUS + 1


@metric(higher_is_better=True, needs_gt=True, protocol=of_pixels(rgb="PSNR, RGB", y="PSNR, Y of BT.601"))
def calculate_psnr(
    img1: Image,
    img2: Image,
    crop_border: int = 0,
    input_order: Literal["HWC", "CHW"] = "HWC",
    test_y_channel: bool = False,
    data_range: float | None = None,
    device: str | torch.device | None = None,
) -> float:
    """Peak signal-to-noise ratio: 10 log10(peak^2 / MSE), in float64.

    Args:
        img1, img2: numpy arrays or CPU or CUDA tensors of one dtype and size: (H, W), or with 1 or 3 channels (H, W, C)
            or, for input_order "CHW", (C, H, W). COLOUR IS BGR, as in OpenCV, in both orders; only Y depends on it.
        crop_border: pixels cut from each side first.
        input_order: order of the axes of the images; reports and validation have HWC.
        test_y_channel: compare Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255 (R, G, B on the scale 0..255; not
            rounded; peak 255). A single channel is taken as it is.
        data_range: the peak value; by default 255 for uint8, 65535 for uint16, 1 for floats. Never read off the pixels.
        device: where to compute; by default where img1 is (an array: on the CPU).

    Returns:
        dB; inf for identical images.

    Raises:
        UserError: the images differ in dtype or size, the shape does not fit, the border leaves nothing, or the dtype has
            no known peak.
    """
    a, b, peak = _comparable(img1, img2, crop_border, input_order, test_y_channel, data_range, device)
    mse = (a.double() - b.double()).square().mean().item()
    return math.inf if mse == 0 else 10 * math.log10(peak**2 / mse)


@metric(
    higher_is_better=True,
    needs_gt=True,
    protocol=of_pixels(
        rgb="SSIM, 11x11x11 Gaussian volume over RGB (the papers')", y="SSIM, 11x11 Gaussian on Y of BT.601 (the papers')"
    ),
)
def calculate_ssim(
    img1: Image,
    img2: Image,
    crop_border: int = 0,
    input_order: Literal["HWC", "CHW"] = "HWC",
    test_y_channel: bool = False,
    data_range: float | None = None,
    device: str | torch.device | None = None,
) -> float:
    """Structural similarity as the restoration papers report it, following MATLAB's ssim on an RGB image.

    The H x W x 3 image is a volume: one 11 x 11 x 11 Gaussian, sigma 1.5, goes over all three axes with replicated
    borders; Y and single-channel images get the 11 x 11 Gaussian. C1 = (0.01 peak)^2, C2 = (0.03 peak)^2 (Wang et al. 2004,
    eq. 13); the mean over the whole map.

    Arguments and errors: as `calculate_psnr`.

    Returns:
        At most 1, which identical images have.
    """
    a, b, peak = _comparable(img1, img2, crop_border, input_order, test_y_channel, data_range, device)
    return _ssim_map(a.squeeze(0).float(), b.squeeze(0).float(), peak).mean(dtype=torch.float64).item()


@metric(
    higher_is_better=True,
    needs_gt=True,
    protocol=of_pixels(
        rgb="SSIM, 11x11 Gaussian on each of R, G and B, without padding (scikit-image's)",
        y="SSIM, 11x11 Gaussian on Y of BT.601, without padding (scikit-image's)",
    ),
    smallest=(_WINDOW, _WINDOW),
)
def calculate_ssim_channelwise(
    img1: Image,
    img2: Image,
    crop_border: int = 0,
    input_order: Literal["HWC", "CHW"] = "HWC",
    test_y_channel: bool = False,
    data_range: float | None = None,
) -> float:
    """Structural similarity of each channel alone, averaged over the channels, by scikit-image on the CPU.

    Only pixels whose whole 11 x 11 window lies inside the image count. It reads lower than `calculate_ssim` on RGB: the two
    are not to be compared.

    Arguments and errors: as `calculate_psnr`; images below 11 x 11 pixels are refused as well.

    Returns:
        At most 1, which identical images have.
    """
    a, b, peak = _comparable(img1, img2, crop_border, input_order, test_y_channel, data_range, "cpu")
    height, width = a.shape[1:]
    if min(height, width) < _WINDOW:
        raise UserError(f"an image of {height}x{width} pixels (border cut) is too small for this SSIM; give at least 11x11.")
    return float(
        structural_similarity(
            a.double().numpy(),
            b.double().numpy(),
            channel_axis=0,
            data_range=peak,
            gaussian_weights=True,
            sigma=_SIGMA,
            use_sample_covariance=False,
        )
    )


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


def cropped(image: torch.Tensor, border: int) -> torch.Tensor:
    """(C, H, W) without `border` pixels at each side."""
    height, width = image.shape[1:]
    if border < 0 or 2 * border >= min(height, width):
        raise UserError(
            f"crop_border {border} leaves nothing of an image of {height}x{width} pixels; use a smaller one, 0 or more."
        )
    return image[:, border : height - border, border : width - border]


def peak_of(dtype: torch.dtype, data_range: float | None) -> float:
    """The value of white: `data_range`, or what the dtype implies."""
    if data_range is not None:
        if not data_range > 0:
            raise UserError(f"data_range is {data_range}; give the peak value, e.g. 255 or 1.")
        return float(data_range)
    if dtype.is_floating_point:
        return 1.0
    if dtype not in _PEAKS:
        raise UserError(f"images of {_name(dtype)} have no known peak; give data_range, or convert to uint8, uint16 or float.")
    return _PEAKS[dtype]


def _comparable(
    img1: Image,
    img2: Image,
    crop_border: int,
    input_order: str,
    test_y_channel: bool,
    data_range: float | None,
    device: str | torch.device | None,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Both images as (C, H, W) on one device, cropped, Y if asked for; and their peak value."""
    a = to_chw(img1, input_order, device)
    b = to_chw(img2, input_order, a.device)
    if a.dtype != b.dtype:
        raise UserError(
            f"the images are {_name(a.dtype)} and {_name(b.dtype)}; convert one to the dtype and range of the other."
        )
    if a.shape != b.shape:
        raise UserError(
            f"the images differ in shape (channels, height, width), {tuple(a.shape)} and {tuple(b.shape)}; make them equal."
        )
    peak = peak_of(a.dtype, data_range)
    a, b = cropped(a, crop_border), cropped(b, crop_border)
    if test_y_channel and a.shape[0] == 3:
        return _luma(a, peak), _luma(b, peak), _Y_PEAK
    return a, b, peak


def _luma(bgr: torch.Tensor, peak: float) -> torch.Tensor:
    """(3, H, W) with white at `peak` to Y, (1, H, W) float64 in 16..235."""
    weights = torch.tensor(_BGR_TO_Y, dtype=torch.float64, device=bgr.device).view(3, 1, 1)
    return 16 + (bgr.double() / peak * weights).sum(0, keepdim=True)


def _ssim_map(x: torch.Tensor, y: torch.Tensor, peak: float) -> torch.Tensor:
    """SSIM at every sample of two float32 images, (H, W) or (3, H, W) as a volume.

    Written with s = x + y and d = x - y: four blurred images instead of five. Both are centred, and the means added back, so
    that float32 keeps the digits of the variances E(s^2) - E(s)^2 and E(d^2) - E(d)^2.
    """
    s, d = x + y, x - y
    offset_s, offset_d = s.mean(), d.mean()
    s -= offset_s
    d -= offset_d
    mean_s, mean_d = _blur(s), _blur(d)
    var_s, var_d = _blur(s * s) - mean_s**2, _blur(d * d) - mean_d**2
    mean_s2, mean_d2 = (mean_s + offset_s) ** 2, (mean_d + offset_d) ** 2
    # Twice numerator and twice denominator: 4 mu_x mu_y = mean_s2 - mean_d2, 2 (mu_x^2 + mu_y^2) = mean_s2 + mean_d2, and alike
    # for the variances.
    c1, c2 = 2 * (0.01 * peak) ** 2, 2 * (0.03 * peak) ** 2
    return (mean_s2 - mean_d2 + c1) * (var_s - var_d + c2) / ((mean_s2 + mean_d2 + c1) * (var_s + var_d + c2))


def _blur(x: torch.Tensor) -> torch.Tensor:
    """Gaussian window with replicated borders over all axes: separable, so one 1-D pass an axis.

    Sums of shifted slices, not convolutions: on GPUs those would round float32 to TF32, and under autocast to half.
    """
    g = [math.exp(-(k**2) / (2 * _SIGMA**2)) for k in range(-_RADIUS, _RADIUS + 1)]
    for axis, n in enumerate(x.shape):
        index = torch.arange(-_RADIUS, n + _RADIUS, device=x.device).clamp(0, n - 1)
        padded = x.index_select(axis, index)
        x = torch.zeros_like(x)
        for k, weight in enumerate(g):
            x.add_(padded.narrow(axis, k, n), alpha=weight / sum(g))
    return x


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
