"""LPIPS and DISTS: distances of an image pair as networks see it, through the optional package torchmetrics.

R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang, "The unreasonable effectiveness of deep features as a perceptual
metric", CVPR 2018: LPIPS, here its version 0.1. K. Ding, K. Ma, S. Wang, E. P. Simoncelli, "Image quality assessment: unifying
structure and texture similarity", IEEE TPAMI 44(5), 2022: DISTS.

torchmetrics (Apache-2.0) has the networks of the authors' packages lpips and DISTS_pytorch, with the same learned layers in
its wheel, and is kept up; the layers below them are torchvision's for ImageNet, which it downloads.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import torch

from basicsr.errors import UserError
from basicsr.metrics.extras import imported, loaded
from basicsr.metrics.pixels import Image, cropped, pair, peak_of
from basicsr.metrics.protocol import Protocol, metric, of_pixels
from basicsr.metrics.protocols import line_of, protocol_named, takes

EXTRA = "perceptual"
Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # of two (1, 3, H, W) RGB in [0, 1]

_BACKBONES = {"alex": "AlexNet", "vgg": "VGG16"}
_LEAST = {"alex": 31, "vgg": 16}  # the side below which nothing is left of an image after the pooling layers
_WEIGHTS = {  # of torchvision
    "alex": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "vgg": "https://download.pytorch.org/models/vgg16-397923af.pth",
}


def _lpips_line(net: str = "alex", **options: object) -> str:
    line = line_of("LPIPS", of_pixels(rgb="LPIPS, RGB"))(**options)
    return f"{line}; version 0.1, {_of_backbone(net)}"


def _dists_line(of_images: Protocol) -> Protocol:
    return lambda **options: f"{of_images(**options)}; {_of_backbone('vgg')}"


def _of_backbone(net: str) -> str:
    file = _WEIGHTS[net].rpartition("/")[2]
    return f"{_BACKBONES[net]} with torchvision's {file}, on [0, 1], not resized (torchmetrics)"


def _smallest_for_lpips(net: str = "alex", **_options: object) -> tuple[int, int]:
    return _LEAST[net], _LEAST[net]


def _lpips_ready(net: str = "alex", device: str | torch.device | None = None, **_options: object) -> None:
    _lpips(net, torch.device(device or "cpu"))


def _dists_ready(device: str | torch.device | None = None, **_options: object) -> None:
    _dists(torch.device(device or "cpu"))


@metric(
    higher_is_better=False,
    needs_gt=True,
    protocol=_lpips_line,
    smallest=_smallest_for_lpips,
    takes=takes,
    ready=_lpips_ready,
)
def calculate_lpips(
    img1: Image,
    img2: Image,
    crop_border: int = 0,
    input_order: Literal["HWC", "CHW"] = "HWC",
    net: Literal["alex", "vgg"] = "alex",
    data_range: float | None = None,
    device: str | torch.device | None = None,
    protocol: Literal["rgb8", "float", "dpdd"] | None = None,
) -> float:
    """Learned perceptual image patch similarity (LPIPS), version 0.1, by torchmetrics; it needs the extra `perceptual`.

    Args:
        img1, img2: restored image and ground truth, as `calculate_psnr` takes them. COLOUR IS BGR, as in OpenCV. Values outside
            the range are clamped. A single channel is taken for all three.
        crop_border: pixels cut from each side first.
        input_order: order of the axes of the images; reports and validation have HWC.
        net: the backbone, AlexNet or VGG16; figures of the two are not to be compared.
        data_range: the peak value; by default 255 for uint8, 65535 for uint16, 1 for floats.
        device: where to compute; by default where img1 is (an array: on the CPU).
        protocol: of published figures: dpdd (defocus deblurring, not rounded), rgb8 or float.

    Returns:
        0 for identical images; lower is better.

    Raises:
        UserError: torchmetrics, torchvision or the weights cannot be had here, the images are below 31 (alex) or 16 (vgg)
            pixels, or as `calculate_psnr`.
    """
    words = {"crop_border": crop_border, "data_range": data_range}
    if chosen := protocol_named(protocol, "LPIPS", **words):
        a, b = (image / chosen.peak for image in chosen.of(img1, img2, input_order, device)[:2])
    else:
        a, b = _in_unit_range(img1, img2, input_order, device, **words)
    if min(a.shape[1:]) < _LEAST[net]:
        height, width = a.shape[1:]
        raise UserError(f"an image of {height}x{width} pixels is too small for LPIPS; give at least {_LEAST[net]} a side.")
    return _value(_lpips(net, a.device), a, b)


@metric(
    higher_is_better=False,
    needs_gt=True,
    protocol=_dists_line(of_pixels(rgb="DISTS, RGB")),
    ready=_dists_ready,
)
def calculate_dists(
    img1: Image,
    img2: Image,
    crop_border: int = 0,
    input_order: Literal["HWC", "CHW"] = "HWC",
    data_range: float | None = None,
    device: str | torch.device | None = None,
) -> float:
    """Deep image structure and texture similarity (DISTS), by torchmetrics; it needs the extra `perceptual`.

    The images keep their size, where the authors' script makes the short side 256 pixels.

    Arguments and errors: as `calculate_lpips`, but for `net` and `protocol`; images may be of any size.

    Returns:
        0 for identical images, at most about 1; lower is better.
    """
    words = {"crop_border": crop_border, "data_range": data_range}
    a, b = _in_unit_range(img1, img2, input_order, device, **words)
    return _value(_dists(a.device), a, b)


def _in_unit_range(
    img1: Image,
    img2: Image,
    input_order: str,
    device: str | torch.device | None,
    *,
    crop_border: int,
    data_range: float | None,
) -> tuple[torch.Tensor, ...]:
    """Both as (C, H, W) float32 in [0, 1], BGR or grey, the border cut."""
    images = pair(img1, img2, input_order, device)
    return tuple(in_unit_range(cropped(image, crop_border), data_range) for image in images)


def in_unit_range(image: torch.Tensor, data_range: float | None = None) -> torch.Tensor:
    """Any dtype with a known peak to float32, clamped to [0, 1]."""
    return (image.double() / peak_of(image.dtype, data_range)).clamp(0, 1).float()


def rgb_batch(image: torch.Tensor) -> torch.Tensor:
    """(C, H, W) BGR or grey to (1, 3, H, W) RGB."""
    return image.flip(0).expand(3, -1, -1)[None]


@torch.no_grad()
def _value(distance: Distance, a: torch.Tensor, b: torch.Tensor) -> float:
    return float(distance(rgb_batch(a), rgb_batch(b)))


@lru_cache
def _lpips(net: str, device: torch.device) -> Distance:
    module = imported("calculate_lpips", EXTRA, "torchmetrics.image.lpip", "torchvision.models")
    build = module.LearnedPerceptualImagePatchSimilarity
    network = loaded("calculate_lpips", _WEIGHTS[net], lambda: build(net_type=net, normalize=True).net.to(device))
    return lambda a, b: network(a, b, normalize=True)


@lru_cache
def _dists(device: torch.device) -> Distance:
    module = imported("calculate_dists", EXTRA, "torchmetrics.functional.image.dists", "torchvision.models")
    return loaded("calculate_dists", _WEIGHTS["vgg"], lambda: module.DISTSNetwork().to(device))
