"""PSNR, two SSIMs and the mean absolute error of an image pair; colour images are BGR, as OpenCV reads them.

With `protocol` they are what papers of a task report, see `basicsr.metrics.protocols`; without, what the other words say. On
8-bit images that is rgb8: the papers' protocol for GoPro, HIDE and REDS.
"""

import math
from typing import Literal

import torch

from basicsr.errors import UserError
from basicsr.metrics import similarity
from basicsr.metrics.pixels import Image, cropped, luma, name_of, pair, peak_of
from basicsr.metrics.protocol import metric, of_pixels
from basicsr.metrics.protocols import ProtocolName, line_of, protocol_named, smallest_for_ssim, takes

_Y_PEAK = 255.0


@metric(
    higher_is_better=True,
    needs_gt=True,
    protocol=line_of("PSNR", of_pixels(rgb="PSNR, RGB", y="PSNR, Y of BT.601")),
    takes=takes,
    on_gpu=True,
)
def calculate_psnr(
    img1: Image,
    img2: Image,
    crop_border: int = 0,
    input_order: Literal["HWC", "CHW"] = "HWC",
    test_y_channel: bool | None = None,
    data_range: float | None = None,
    device: str | torch.device | None = None,
    protocol: ProtocolName | None = None,
) -> float:
    """Peak signal-to-noise ratio: 10 log10(peak^2 / MSE), in float64.

    Args:
        img1, img2: restored image and ground truth, numpy arrays or CPU or CUDA tensors of one size: (H, W), or with 1 or 3
            channels (H, W, C) or, for input_order "CHW", (C, H, W). COLOUR IS BGR, as in OpenCV, in both orders; only Y
            depends on it. Without a protocol of one dtype; with one of any dtype with a known peak (uint8, uint16, floats
            with white at 1).
        crop_border: pixels cut from each side first.
        input_order: order of the axes of the images; reports and validation have HWC.
        test_y_channel: compare Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255 (R, G, B on the scale 0..255; not
            rounded; peak 255). A single channel is taken as it is.
        data_range: the peak value; by default 255 for uint8, 65535 for uint16, 1 for floats. Never read off the pixels.
        device: where to compute; by default where img1 is (an array: on the CPU).
        protocol: of the published figures of a task: rgb8 (GoPro, HIDE, REDS), y8 (rain), float (SIDD), noise8 (Gaussian
            noise), dpdd or realblur. It says what is clamped, rounded and aligned, and the peak.

    Returns:
        dB; inf for identical images.

    Raises:
        UserError: the images differ in dtype or size, the shape does not fit, the border leaves nothing, the dtype has
            no known peak, an option contradicts the protocol, or its alignment fails.
    """
    words = {"crop_border": crop_border, "test_y_channel": test_y_channel, "data_range": data_range}
    if chosen := protocol_named(protocol, "PSNR", **words):
        return chosen.psnr(chosen.of(img1, img2, input_order, device))
    a, b, peak = _comparable(img1, img2, input_order, device, **words)
    mse = (a.double() - b.double()).square().mean().item()
    return math.inf if mse == 0 else 10 * math.log10(peak**2 / mse)


@metric(
    higher_is_better=True,
    needs_gt=True,
    protocol=line_of(
        "SSIM",
        of_pixels(
            rgb="SSIM, 11x11x11 Gaussian volume over RGB (the papers')", y="SSIM, 11x11 Gaussian on Y of BT.601 (the papers')"
        ),
    ),
    smallest=smallest_for_ssim,
    takes=takes,
    on_gpu=True,
)
def calculate_ssim(
    img1: Image,
    img2: Image,
    crop_border: int = 0,
    input_order: Literal["HWC", "CHW"] = "HWC",
    test_y_channel: bool | None = None,
    data_range: float | None = None,
    device: str | torch.device | None = None,
    protocol: ProtocolName | None = None,
) -> float:
    """Structural similarity as the restoration papers report it, following MATLAB's ssim on an RGB image.

    The H x W x 3 image is a volume: one 11 x 11 x 11 Gaussian, sigma 1.5, goes over all three axes with replicated
    borders; Y and single-channel images get the 11 x 11 Gaussian. C1 = (0.01 peak)^2, C2 = (0.03 peak)^2 (Wang et al. 2004,
    eq. 13); the mean over the whole map. That is what the protocols rgb8 and float have. y8 has Wang's: Y, without padding;
    dpdd scikit-image's default, 7 x 7 uniform windows channel by channel; realblur Gaussian ones channel by channel, over the
    pixels that the alignment covers; noise8 none.

    Arguments and errors: as `calculate_psnr`.

    Returns:
        At most 1, which identical images have.
    """
    words = {"crop_border": crop_border, "test_y_channel": test_y_channel, "data_range": data_range}
    if chosen := protocol_named(protocol, "SSIM", **words):
        return chosen.similarity(chosen.of(img1, img2, input_order, device))
    return similarity.volume(*_comparable(img1, img2, input_order, device, **words))


@metric(
    higher_is_better=True,
    needs_gt=True,
    protocol=of_pixels(
        rgb="SSIM, 11x11 Gaussian on each of R, G and B, without padding (scikit-image's)",
        y="SSIM, 11x11 Gaussian on Y of BT.601, without padding (scikit-image's)",
    ),
    smallest=(similarity.WINDOW, similarity.WINDOW),
)
def calculate_ssim_channelwise(
    img1: Image,
    img2: Image,
    crop_border: int = 0,
    input_order: Literal["HWC", "CHW"] = "HWC",
    test_y_channel: bool | None = None,
    data_range: float | None = None,
) -> float:
    """Structural similarity of each channel alone, averaged over the channels, by scikit-image on the CPU.

    Only pixels whose whole 11 x 11 window lies inside the image count. It reads lower than `calculate_ssim` on RGB: the two
    are not to be compared.

    Arguments and errors: as `calculate_psnr`; images below 11 x 11 pixels are refused as well.

    Returns:
        At most 1, which identical images have.
    """
    return similarity.channelwise(
        *_comparable(
            *(img1, img2, input_order, "cpu"), crop_border=crop_border, test_y_channel=test_y_channel, data_range=data_range
        )
    )


@metric(
    higher_is_better=False,
    needs_gt=True,
    protocol=line_of("MAE", of_pixels(rgb="mean absolute error on the scale 0 to 1, RGB")),
    takes=takes,
    on_gpu=True,
)
def calculate_mae(
    img1: Image,
    img2: Image,
    crop_border: int = 0,
    input_order: Literal["HWC", "CHW"] = "HWC",
    data_range: float | None = None,
    device: str | torch.device | None = None,
    protocol: Literal["rgb8", "float", "dpdd"] | None = None,
) -> float:
    """Mean absolute error over all values, over the peak: on the scale 0 to 1, as papers on defocus deblurring report it.

    Arguments and errors: as `calculate_psnr`.

    Returns:
        0 for identical images.
    """
    words = {"crop_border": crop_border, "data_range": data_range}
    if chosen := protocol_named(protocol, "MAE", **words):
        return chosen.mae(chosen.of(img1, img2, input_order, device))
    a, b, peak = _comparable(img1, img2, input_order, device, **words)
    return (a.double() - b.double()).abs().mean().item() / peak


def _comparable(
    img1: Image,
    img2: Image,
    input_order: str,
    device: str | torch.device | None,
    *,
    crop_border: int,
    test_y_channel: bool | None = None,
    data_range: float | None,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Both images as (C, H, W) on one device, cropped, Y if asked for; and their peak value."""
    a, b = pair(img1, img2, input_order, device)
    if a.dtype != b.dtype:
        raise UserError(
            f"the images are {name_of(a.dtype)} and {name_of(b.dtype)}; convert one to the dtype and range of the other."
        )
    peak = peak_of(a.dtype, data_range)
    a, b = cropped(a, crop_border), cropped(b, crop_border)
    if test_y_channel and a.shape[0] == 3:
        return luma(a, peak), luma(b, peak), _Y_PEAK
    return a, b, peak
