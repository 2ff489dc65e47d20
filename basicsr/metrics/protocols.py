"""The six protocols of published figures: what is done to the restored image and its ground truth before they are compared,
the peak, and which SSIM. The one place that knows them; nobody crops a border.

| | restored image | ground truth | published for |
|---|---|---|---|
| rgb8 | clamped to [0, 1], times 255, rounded to uint8 (half to even) | uint8 | GoPro, HIDE, REDS |
| y8 | as rgb8, then Y of BT.601 rounded to uint8, as MATLAB's rgb2ycbcr has it | the same | rain |
| float | clamped to [0, 1], not rounded | as read | SIDD |
| noise8 | as rgb8, colour or grey; no SSIM | uint8 | Gaussian noise |
| dpdd | as float; scikit-image's SSIM | as read, 8 or 16 bits | DPDD |
| realblur | as rgb8, then aligned with the ground truth | uint8 | RealBlur |
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch

from basicsr.errors import UserError, did_you_mean
from basicsr.metrics import similarity
from basicsr.metrics.alignment import aligned
from basicsr.metrics.pixels import Image, luma, pair, peak_of
from basicsr.metrics.protocol import Protocol

ProtocolName = Literal["rgb8", "y8", "float", "noise8", "dpdd", "realblur"]


class Compared(NamedTuple):
    """Two images (C, H, W) that are ready to compare, and the mask (H, W) of the pixels that count; None: all."""

    restored: torch.Tensor
    truth: torch.Tensor
    mask: torch.Tensor | None = None


@dataclass(frozen=True)
class ImageProtocol:
    """One protocol.

    images: what is compared, in words. peak: its white.
    prepare: two images (C, H, W), float32 in [0, 1] but for what the network exceeds -> what is compared.
    ssim: of what is compared, or None where none is published; ssim_words: which; least: the least side that it takes.
    """

    images: str
    peak: float
    prepare: Callable[[torch.Tensor, torch.Tensor], Compared]
    ssim: Callable[..., float] | None
    ssim_words: str = ""
    least: int = 1

    def of(self, img1: Image, img2: Image, input_order: str, device: str | torch.device | None) -> Compared:
        """Restored image and ground truth, in any dtype with a known peak, as they are compared."""
        return self.prepare(*(_as_float(image) for image in pair(img1, img2, input_order, device)))

    def psnr(self, images: Compared) -> float:
        """dB; inf for identical images. With a mask, both images are black outside of it, and its pixels are counted."""
        error = (images.restored.double() - images.truth.double()).square()
        count = error.numel() if images.mask is None else len(error) * images.mask.double().sum()
        mse = float(error.sum() / count)
        return math.inf if mse == 0 else 10 * math.log10(self.peak**2 / mse)

    def similarity(self, images: Compared) -> float:
        mask = {} if images.mask is None else {"mask": images.mask}
        return self.ssim(images.restored, images.truth, self.peak, **mask)

    def mae(self, images: Compared) -> float:
        """Mean absolute difference on the scale 0 to 1."""
        return (images.restored.double() - images.truth.double()).abs().mean().item() / self.peak


def _as_float(image: torch.Tensor) -> torch.Tensor:
    """(C, H, W) of any dtype with a known peak as float32, white at 1."""
    return image.float() if image.dtype.is_floating_point else (image.double() / peak_of(image.dtype)).float()


def _rounded(restored: torch.Tensor, truth: torch.Tensor) -> Compared:
    return Compared(*((image.clamp(0, 1) * 255).round() for image in (restored, truth)))


def _clamped(restored: torch.Tensor, truth: torch.Tensor) -> Compared:
    return Compared(restored.clamp(0, 1), truth)


def _y(restored: torch.Tensor, truth: torch.Tensor) -> Compared:
    """A single channel is taken as it is."""
    images = _rounded(restored, truth)
    if len(restored) == 1:
        return images
    return Compared(*((luma(image, 255) + 0.5).floor() for image in images[:2]))  # half up, as MATLAB rounds


def _aligned(restored: torch.Tensor, truth: torch.Tensor) -> Compared:
    restored, truth = _rounded(restored, truth)[:2]
    # RGB as published: a grey that is rounded otherwise in its last digit is aligned otherwise.
    warped, mask = aligned(*(image.flip(0).byte().permute(1, 2, 0).cpu().numpy() for image in (restored, truth)))
    warped, mask = (torch.from_numpy(part).to(truth.device) for part in (warped, mask))
    return Compared(*(image * mask for image in (warped.permute(2, 0, 1).flip(0), truth / 255)), mask)


PROTOCOLS: dict[str, ImageProtocol] = {
    "rgb8": ImageProtocol(
        "clamped and rounded to uint8, RGB, peak 255", 255, _rounded, similarity.volume, "11x11x11 Gaussian volume over RGB"
    ),
    "y8": ImageProtocol(
        "clamped and rounded to uint8, Y of BT.601 rounded to uint8, peak 255",
        *(255, _y, similarity.valid, "11x11 Gaussian, valid region", similarity.WINDOW),
    ),
    "float": ImageProtocol(
        "clamped, not rounded, RGB, peak 1", 1, _clamped, similarity.volume, "11x11x11 Gaussian volume over RGB"
    ),
    "noise8": ImageProtocol("clamped and rounded to uint8, RGB or grey, peak 255", 255, _rounded, None),
    "dpdd": ImageProtocol(
        "clamped, not rounded, RGB, peak 1",
        *(1, _clamped, similarity.uniform, "7x7 uniform on each of R, G and B (scikit-image's default)", similarity.UNIFORM),
    ),
    "realblur": ImageProtocol(
        "clamped and rounded to uint8, one gain, aligned with the truth by ECC, RGB inside the mask, peak 1",
        *(1, _aligned, similarity.masked, "11x11 Gaussian on each of R, G and B inside the mask", similarity.WINDOW),
    ),
}
assert tuple(PROTOCOLS) == get_args(ProtocolName)


def protocol_named(
    name: str | None,
    measure: str,
    *,
    crop_border: int = 0,
    test_y_channel: bool | None = None,
    data_range: float | None = None,
) -> ImageProtocol | None:
    """The protocol that a metric was asked to keep to; None: none was.

    Args:
        measure: 'PSNR', 'SSIM', 'MAE' or 'LPIPS'. The others: what else the metric was told, which must not say otherwise.

    Raises:
        UserError: an unknown name, one without this measure, or one that another word contradicts.
    """
    if name is None:
        return None
    if name not in PROTOCOLS:
        raise UserError(f"protocol: `{name}` is unknown.{did_you_mean(name, PROTOCOLS)} It is {' or '.join(PROTOCOLS)}.")
    protocol = PROTOCOLS[name]
    if measure == "SSIM" and protocol.ssim is None:
        raise UserError(f"protocol: no SSIM is published by {name}; take rgb8, which has the same images.")
    if measure in ("MAE", "LPIPS") and name not in ("rgb8", "float", "dpdd"):
        raise UserError(f"protocol: {name} has no {measure}; take rgb8, float or dpdd.")
    on_y = name == "y8"
    says = {
        "crop_border": (crop_border != 0, f"{crop_border}, but no protocol cuts a border"),
        "test_y_channel": (
            test_y_channel not in (None, on_y),
            f"{str(test_y_channel).lower()}, but protocol {name} compares {'Y' if on_y else 'all channels'}",
        ),
        "data_range": (data_range not in (None, protocol.peak), f"{data_range}, but protocol {name} has {protocol.peak:g}"),
    }
    for word, (wrong, text) in says.items():
        if wrong:
            raise UserError(f"{word} is {text}; leave {word} out, or protocol.")
    return protocol


def line_of(measure: str, otherwise: Protocol) -> Protocol:
    """The line of a metric that keeps to a protocol when asked to, see `metric`; `otherwise`: where it is not."""

    def line(dtype: str = "uint8", protocol: str | None = None, **options: object) -> str:
        words = {word: options[word] for word in ("crop_border", "test_y_channel", "data_range") if word in options}
        chosen = protocol_named(protocol, measure, **words)
        if chosen is None:
            return otherwise(dtype=dtype, **options)
        return f"{measure}, protocol {protocol}: {chosen.images}" + (f", {chosen.ssim_words}" if measure == "SSIM" else "")

    return line


def takes(protocol: str | None = None, **_options: object) -> str:
    """A protocol rounds the images itself; see `metric`."""
    return "uint8" if protocol is None else "float"


def smallest_for_ssim(protocol: str | None = None, **_options: object) -> tuple[int, int]:
    least = 1 if protocol is None else PROTOCOLS[protocol].least
    return least, least
