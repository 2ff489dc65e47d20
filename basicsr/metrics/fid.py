"""FID, a metric of the whole set: how far the features of all restored images are from those of all ground truths.

M. Heusel, H. Ramsauer, T. Unterthiner, B. Nessler, S. Hochreiter, "GANs trained by a two time-scale update rule converge to a
local Nash equilibrium", NeurIPS 2017. Through the optional packages torchmetrics and torch-fidelity (both Apache-2.0), with the
Inception v3 of the paper, whose weights torch-fidelity downloads.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import nn

from basicsr.metrics.extras import imported, loaded
from basicsr.metrics.perceptual import EXTRA, in_unit_range, rgb_batch
from basicsr.metrics.pixels import Image, cropped, pair
from basicsr.metrics.protocol import metric, of_pixels

FEATURES = 2048  # of Inception's last pooling; with fewer images than features, their covariance is not of full rank
_WEIGHTS = (  # of torch-fidelity
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


def _line(**options: object) -> str:
    images = of_pixels(rgb="FID of all restored images and all ground truths, RGB")(**options)
    return (
        f"{images}; Inception v3 with torch-fidelity's {_WEIGHTS.rpartition('/')[2]}, on 8 bits, resized to 299x299 as in "
        f"TensorFlow 1, biased for fewer than {FEATURES:,} images (torchmetrics)"
    )


def _ready(device: str | torch.device | None = None, **_options: object) -> None:
    _inception(torch.device(device or "cpu"))


def frechet_distance(features: Sequence[np.ndarray]) -> float:
    """FID of a set, as torchmetrics computes it: the Fréchet distance of two Gaussians with features' means and covariances.

    Args:
        features: of each image, (2, 2048), what `calculate_fid` returns; of two or more images.

    Raises:
        UserError: torchmetrics cannot be had here.
    """
    distance = imported("calculate_fid", EXTRA, "torchmetrics.image.fid").FrechetInceptionDistance(_Same())
    restored, truth = torch.from_numpy(np.stack(features, axis=1))  # (images, 2048) each
    distance.update(restored, real=False)
    distance.update(truth, real=True)
    return float(distance.compute())


@metric(
    higher_is_better=False,
    needs_gt=True,
    protocol=_line,
    ready=_ready,
    of_set=frechet_distance,
    enough=FEATURES,
)
def calculate_fid(
    img1: Image,
    img2: Image,
    crop_border: int = 0,
    input_order: Literal["HWC", "CHW"] = "HWC",
    data_range: float | None = None,
    device: str | torch.device | None = None,
) -> np.ndarray:
    """Fréchet inception distance of all images together, by torchmetrics and torch-fidelity; it needs the extra `perceptual`.

    It is a figure of a set: of a pair of images this function returns features, of which `frechet_distance` makes the figure of
    all. Sets of fewer than 2,048 images read too high: only figures of the same images can be compared.

    Args:
        img1, img2: restored image and ground truth, as `calculate_psnr` takes them. COLOUR IS BGR, as in OpenCV. Floats are
            rounded to 8 bits, and a single channel is taken for all three.
        crop_border: pixels cut from each side first.
        input_order: order of the axes of the images; reports and validation have HWC.
        data_range: the peak value; by default 255 for uint8, 65535 for uint16, 1 for floats.
        device: where to compute; by default where img1 is (an array: on the CPU).

    Returns:
        (2, 2048) float32: the features of the restored image and of the ground truth.

    Raises:
        UserError: torchmetrics, torch-fidelity or the weights cannot be had here, or as `calculate_psnr`.
    """
    images = pair(img1, img2, input_order, device)
    batch = torch.cat([rgb_batch(in_unit_range(cropped(image, crop_border), data_range)) for image in images])
    with torch.no_grad():
        return _inception(batch.device)((batch * 255).round().byte()).cpu().numpy()


class _Same(nn.Module):
    """In the place of the network, where the features are there already."""

    num_features = FEATURES

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


@lru_cache
def _inception(device: torch.device) -> nn.Module:
    """(N, 3, H, W) RGB uint8 to (N, 2048)."""
    module = imported("calculate_fid", EXTRA, "torchmetrics.image.fid", "torch_fidelity")
    build = module.FrechetInceptionDistance
    return loaded("calculate_fid", _WEIGHTS, lambda: build(FEATURES, antialias=False).inception.to(device))
