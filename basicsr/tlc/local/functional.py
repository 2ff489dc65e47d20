"""Local means and local instance norm: pure functions of tensors (..., H, W) and windows (k1, k2).

Means are running sums in float32 at least. Variances are accumulated in float64 (float32 where a device has none) of centred
values, whatever the input's precision: in the activations' own precision E[x^2] - E[x]^2 loses the variance of flat regions,
and turns negative.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.tlc.local import Size, exporting

try:
    from basicsr import kernels
except ImportError:  # this package was copied out alone
    kernels = None

_FAR = 512  # elements between neighbours in a map
_CHUNK = 1 << 22  # elements of a map that are worked on at a time, so that float64 copies stay small


def local_mean(x: Tensor, window: Size, max_stride: Size | None = None, *, padded: bool = True) -> Tensor:
    """Mean over the window around each position (TLC, section 3.2).

    Args:
        x: (N, C, H, W) or (C, H, W), any floating dtype.
        window: rows and columns; each is capped by the map's.
        max_stride: None for the exact mean, equal to F.avg_pool2d(x, window, stride=1) with replicated borders; or the caps
            (rows, columns) of the strides of the published approximation `fast_imp`.
        padded: whether the borders are replicated. Layers that see single pixels give the same before as after that, for less.

    Returns:
        The shape of x, or less unless padded; (..., 1, 1) when the window covers the map, where the mean is the global one.
    """
    if exporting.tracing():
        return exporting.local_mean(x, window, max_stride)
    if covers(window, x.shape[-2:]):
        return x.mean((-2, -1), keepdim=True)
    means = _box_mean(x, window, max_stride)
    return (_pad_to(means, x.shape[-2:]) if padded else means).to(x.dtype)


def local_instance_norm(
    x: Tensor, window: Size, weight: Tensor | None, bias: Tensor | None, eps: float, max_stride: Size | None = None
) -> Tensor:
    """Instance norm with the mean and biased variance of the window around each position.

    Args: as `local_mean`; weight, bias: (C,) or None.
    Finite for every finite input: the variance is that of centred values and never below zero.
    """
    if exporting.tracing():
        return exporting.local_instance_norm(x, window, weight, bias, eps, max_stride)
    limit = torch.finfo(x.dtype).max

    def norm(part: Tensor) -> Tensor:
        part = part.to(_accumulator(part))
        part = part - part.mean((-2, -1), keepdim=True)
        mean = _box_mean(part, window, max_stride)
        variance = (_box_mean(part.square(), window, max_stride) - mean.square()).clamp(min=0)
        size = part.shape[-2:]
        normed = (part - _pad_to(mean, size)) * _pad_to(torch.rsqrt(variance + eps), size)
        return normed.clamp(-limit, limit).to(x.dtype)

    out = _by_channels(norm, x)
    if weight is not None:
        out = out * weight.to(x.dtype).view(-1, 1, 1)  # under autocast the parameters are float32
    return out if bias is None else out + bias.to(x.dtype).view(-1, 1, 1)


def on_gpu(x: Tensor) -> bool:
    """Whether `basicsr.kernels` is there, and to be used."""
    return kernels is not None and kernels.accelerates(x)


def covers(window: Size, size: Size) -> bool:
    return window[0] >= size[0] and window[1] >= size[1]


def _accumulator(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64


def _by_channels(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of maps to some channels at a time."""
    step = max(1, _CHUNK * x.shape[-3] // max(1, x.numel()))
    if step >= x.shape[-3]:
        return function(x)
    return torch.cat([function(part) for part in x.split(step, dim=-3)], dim=-3)


def _pad_to(x: Tensor, size: Size) -> Tensor:
    """Replicate the borders of (..., h, w) up to (..., H, W), the odd row or column at the end."""
    (h, w), (height, width) = x.shape[-2:], size
    left, top = (width - w) // 2, (height - h) // 2
    return F.pad(x, (left, width - w - left, top, height - h - top), mode="replicate")


def _box_mean(x: Tensor, window: Size, max_stride: Size | None) -> Tensor:
    """Means over all windows inside the map, (..., H-k1+1, W-k2+1), in float32 at least but from a GPU's kernels, which sum in
    it; the global mean when the window covers the map."""
    exact = max_stride is None or covers(window, x.shape[-2:])
    if exact and on_gpu(x):
        means = kernels.box_mean(x.reshape(-1, *x.shape[-3:]), window)
        return means.reshape(*x.shape[:-2], *means.shape[-2:])
    x = x.float() if x.dtype.itemsize < 4 else x
    if not exact:
        return _strided_mean(_strided_mean(x, window[1], max_stride[1], -1), window[0], max_stride[0], -2)
    k1, k2 = (min(k, size) for k, size in zip(window, x.shape[-2:], strict=True))
    return _sliding_sum(_sliding_sum(x, k1, -2), k2, -1).div_(k1 * k2)


def _sliding_sum(x: Tensor, window: int, dim: int) -> Tensor:
    """Sums over all windows inside the map, in one dimension.

    A running sum: what enters the window is added, what leaves it is taken away. Unlike a difference of two prefix sums, it is
    exact where the map is flat, and never larger than a window's sum.
    """
    moves = x.shape[dim] - window
    first, enters, leaves = x.narrow(dim, 0, window), x.narrow(dim, window, moves), x.narrow(dim, 0, moves)
    if torch.is_grad_enabled() or x.is_meta or torch.compiler.is_compiling():  # they do not write into parts of a tensor
        return torch.cat([first.sum(dim, keepdim=True), enters - leaves], dim).cumsum(dim)
    sums = torch.empty_like(x.narrow(dim, 0, moves + 1))
    torch.sum(first, dim, keepdim=True, out=sums.narrow(dim, 0, 1))
    torch.sub(enters, leaves, out=sums.narrow(dim, 1, moves))
    if sums.stride(dim) < _FAR:
        return sums.cumsum_(dim)
    for i in range(moves):  # whole rows at a time: cumsum would walk through memory column by column
        sums.select(dim, i + 1).add_(sums.select(dim, i))
    return sums


def _strided_mean(x: Tensor, window: int, max_stride: int, dim: int) -> Tensor:
    """`fast_imp` in one dimension: the mean over every r-th row of rows i+1 to i+k, repeated r times."""
    size = x.shape[dim]
    stride = min(max_stride, next(r for r in (5, 4, 3, 2, 1) if size % r == 0))
    kept = x.index_select(dim, torch.arange(0, size, stride, device=x.device))
    count = kept.shape[dim]
    if count > 1:
        k = max(1, min(count - 1, window // stride))
        sums = kept.cumsum(dim, dtype=_accumulator(x))
        kept = ((sums.narrow(dim, k, count - k) - sums.narrow(dim, 0, count - k)) / k).to(x.dtype)
    return kept.repeat_interleave(stride, dim)
