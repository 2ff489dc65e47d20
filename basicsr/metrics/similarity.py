"""The kinds of SSIM that papers report, of two images (C, H, W) whose values have a known peak.

Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from error visibility to structural
similarity", IEEE TIP 13(4), 2004: SSIM, its constants (eq. 13: C1 = (0.01 peak)^2, C2 = (0.03 peak)^2) and its window.
"""

import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from skimage.metrics import structural_similarity

from basicsr.errors import UserError

RADIUS, _SIGMA = 5, 1.5  # of the Gaussian window, 11 pixels wide
WINDOW = 2 * RADIUS + 1
UNIFORM = 7  # side of scikit-image's own window
_GAUSS = [math.exp(-(k**2) / (2 * _SIGMA**2)) for k in range(-RADIUS, RADIUS + 1)]
_WEIGHTS = [weight / sum(_GAUSS) for weight in _GAUSS]


def volume(a: torch.Tensor, b: torch.Tensor, peak: float) -> float:
    """MATLAB's ssim of an RGB image: the H x W x 3 array is a volume, which one 11 x 11 x 11 Gaussian goes over, with
    replicated borders; of one channel an 11 x 11 Gaussian. The mean over the whole map."""
    return gaussian_map(a.squeeze(0).float(), b.squeeze(0).float(), peak).mean(dtype=torch.float64).item()


def valid(a: torch.Tensor, b: torch.Tensor, peak: float) -> float:
    """Wang's: one channel, only pixels whose whole 11 x 11 Gaussian window lies inside the image."""
    _at_least(a, WINDOW)
    inside = gaussian_map(a.squeeze(0).float(), b.squeeze(0).float(), peak)[RADIUS:-RADIUS, RADIUS:-RADIUS]
    return inside.mean(dtype=torch.float64).item()


def channelwise(a: torch.Tensor, b: torch.Tensor, peak: float) -> float:
    """scikit-image's with Gaussian windows, channel by channel, without padding; computed in float64."""
    _at_least(a, WINDOW)
    return float(structural_similarity(*_as_arrays(a, b), channel_axis=0, data_range=peak, **_GAUSSIAN))


def uniform(a: torch.Tensor, b: torch.Tensor, peak: float) -> float:
    """scikit-image's default: 7 x 7 uniform windows without padding, sample covariance, the channels' mean; in float64."""
    _at_least(a, UNIFORM)
    if a.is_cuda:
        return uniform_map(a.double(), b.double(), peak).mean().item()
    return float(structural_similarity(*_as_arrays(a, b), channel_axis=0, data_range=peak))


def masked(a: torch.Tensor, b: torch.Tensor, peak: float, mask: torch.Tensor) -> float:
    """As `channelwise`, as a mean over the pixels of a mask (H, W)."""
    _at_least(a, WINDOW)
    _, found = structural_similarity(*_as_arrays(a, b), channel_axis=0, data_range=peak, full=True, **_GAUSSIAN)
    inside = (slice(RADIUS, -RADIUS), slice(RADIUS, -RADIUS))
    counts = mask.cpu().double().numpy()[inside]
    return float((found[(slice(None), *inside)] * counts).sum((1, 2)).mean() / counts.sum())


_GAUSSIAN = {"gaussian_weights": True, "sigma": _SIGMA, "use_sample_covariance": False}


def _as_arrays(*images: torch.Tensor) -> list[np.ndarray]:
    return [image.cpu().double().numpy() for image in images]


def _at_least(image: torch.Tensor, side: int) -> None:
    height, width = image.shape[1:]
    if min(height, width) < side:
        raise UserError(
            f"an image of {height}x{width} pixels (border cut) is too small for this SSIM; give at least {side}x{side}."
        )


def uniform_map(x: torch.Tensor, y: torch.Tensor, peak: float) -> torch.Tensor:
    """What `uniform` averages, of two images (C, H, W): as scikit-image has it, in float64, for GPUs."""
    mean_x, mean_y, xx, yy, xy = F.avg_pool2d(torch.stack([x, y, x * x, y * y, x * y]), UNIFORM, stride=1)
    sample = UNIFORM**2 / (UNIFORM**2 - 1)
    var_x, var_y, cov = sample * (xx - mean_x**2), sample * (yy - mean_y**2), sample * (xy - mean_x * mean_y)
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    return (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))


def gaussian_map(x: torch.Tensor, y: torch.Tensor, peak: float) -> torch.Tensor:
    """SSIM at every sample of two float32 images, (H, W) or (3, H, W) as a volume.

    Written with s = x + y and d = x - y: four blurred images instead of five. Both are centred, and the means added back, so
    that float32 keeps the digits of the variances E(s^2) - E(s)^2 and E(d^2) - E(d)^2.
    """
    s, d = x + y, x - y
    offset_s, offset_d = s.mean(), d.mean()
    s -= offset_s
    d -= offset_d
    mean_s, mean_d, var_s, var_d = _moments(s, d)
    mean_s2, mean_d2 = (mean_s + offset_s) ** 2, (mean_d + offset_d) ** 2
    # Twice numerator and twice denominator: 4 mu_x mu_y = mean_s2 - mean_d2, 2 (mu_x^2 + mu_y^2) = mean_s2 + mean_d2, and alike
    # for the variances.
    c1, c2 = 2 * (0.01 * peak) ** 2, 2 * (0.03 * peak) ** 2
    return (mean_s2 - mean_d2 + c1) * (var_s - var_d + c2) / ((mean_s2 + mean_d2 + c1) * (var_s + var_d + c2))


def _moments(s: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Means of s and d in the window, and their variances."""
    if s.is_cuda:
        mean_s, mean_d, square_s, square_d = blur_at_once(torch.stack([s, d, s * s, d * d]))
        return mean_s, mean_d, square_s - mean_s**2, square_d - mean_d**2
    mean_s, mean_d = _blur(s), _blur(d)
    return mean_s, mean_d, _blur(s * s) - mean_s**2, _blur(d * d) - mean_d**2


def _blur(x: torch.Tensor) -> torch.Tensor:
    """Gaussian window with replicated borders over all axes: separable, so one 1-D pass an axis.

    Sums of shifted slices, not convolutions: on GPUs those would round float32 to TF32, and under autocast to half.
    """
    for axis, n in enumerate(x.shape):
        index = torch.arange(-RADIUS, n + RADIUS, device=x.device).clamp(0, n - 1)
        padded = x.index_select(axis, index)
        x = torch.zeros_like(x)
        for k, weight in enumerate(_WEIGHTS):
            x.add_(padded.narrow(axis, k, n), alpha=weight)
    return x


def blur_at_once(maps: torch.Tensor) -> torch.Tensor:
    """The same of several maps (N, H, W) or (N, 3, H, W), N > 1, in a tenth of the launches: for GPUs.

    A convolution that has each map for itself is torch's own kernel there, not cuDNN's, so that float32 stays float32.
    """
    weights = _weights_on(maps.device, maps.dtype)
    planes = (maps if maps.ndim == 3 else _over_channels(maps).flatten(0, 1))[None]
    planes = F.pad(planes, (RADIUS,) * 4, mode="replicate")
    with torch.autocast(maps.device.type, enabled=False):
        for shape in ((WINDOW, 1), (1, WINDOW)):
            planes = F.conv2d(planes, weights.view(1, 1, *shape).expand(planes.shape[1], -1, -1, -1), groups=planes.shape[1])
    return planes.view_as(maps)


@cache
def _weights_on(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Copied once: a copy from the CPU waits for what is under way."""
    return torch.tensor(_WEIGHTS, dtype=dtype, device=device)


def _over_channels(maps: torch.Tensor) -> torch.Tensor:
    """The window's pass over the second axis of (N, C, H, W), whose few channels are all near the border."""
    out, count = torch.empty_like(maps), maps.shape[1]
    for channel in range(count):
        shares = [0.0] * count
        for k, weight in enumerate(_WEIGHTS, -RADIUS):
            shares[min(max(channel + k, 0), count - 1)] += weight
        torch.mul(maps[:, 0], shares[0], out=out[:, channel])
        for other in range(1, count):
            out[:, channel].add_(maps[:, other], alpha=shares[other])
    return out
