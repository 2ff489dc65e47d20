"""Local means and local norms: pure functions of tensors (..., H, W) and windows (k1, k2).

Means are running sums in float32 at least. Variances are accumulated in float64 (float32 where a device has none) of centred
values, whatever the input's precision: in the activations' own precision E[x^2] - E[x]^2 loses the variance of flat regions,
and turns negative.
"""

import math
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.tlc.local import Size, exporting

try:
    from basicsr import kernels
except ImportError:  # this package was copied out alone
    kernels = None

_FAR = 512  # elements between neighbours in a map
_CHUNK = 1 << 18  # elements of a map that are worked on at a time, so that float64 copies stay in a core's cache
_LARGE_CHUNK = 1 << 22  # elsewhere, so that they stay small
_LARGE_MAP = 1 << 25
_SMALLER = 2.0**-8  # so that differences of the largest values do not overflow


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
        return kernels.channel_mean(x) if x.ndim == 4 and on_gpu(x) else x.mean((-2, -1), keepdim=True)
    strides = _strides(x.shape[-2:], window, max_stride)
    means = _repeated(_box_mean(_kept(x, strides), window, strides), strides)
    return (pad_to(means, x.shape[-2:]) if padded else means).to(x.dtype)


def local_instance_norm(
    x: Tensor, window: Size, weight: Tensor | None, bias: Tensor | None, eps: float, max_stride: Size | None = None
) -> Tensor:
    """Instance norm with the mean and biased variance of the window around each position.

    Args: as `local_mean`; weight, bias: (C,) or None.
    Finite for every finite input: the variance is that of centred values and never below zero.
    """
    if max_stride is None and _normed_at_once(x):
        return kernels.local_norm(x, window, weight, bias, eps)
    return local_group_norm(x, x.shape[-3], window, weight, bias, eps, max_stride)


def local_group_norm(
    x: Tensor,
    groups: int,
    window: Size,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    max_stride: Size | None = None,
) -> Tensor:
    """Group norm (Wu & He, ECCV 2018, arXiv 1803.08494): statistics of a group's channels in the window around each position.

    Args: as `local_instance_norm`; C is a multiple of `groups`.
    Returns: the shape of x.
    """
    if exporting.tracing():
        return exporting.local_group_norm(x, groups, window, weight, bias, eps, max_stride)
    affine = [p if p is None else p.to(_at_least_float32(x)).view(groups, -1, 1, 1) for p in (weight, bias)]
    maps = x.unflatten(-3, (groups, -1))  # (..., groups, C/groups, H, W)
    if _runs_whole(x):
        return _normed(maps, *affine, window, eps, max_stride).flatten(-4, -3)
    out = torch.empty_like(x)
    step = max(1, _chunk(x) * groups // max(1, x[:1].numel() if x.ndim > 3 else x.numel()))
    for sample, place in [(maps, out)] if x.ndim == 3 else zip(maps, out, strict=True):
        for first in range(0, groups, step):
            some = slice(first, first + step)
            parts = (p if p is None else p[some] for p in affine)
            _normed(sample[some], *parts, window, eps, max_stride, place.unflatten(-3, (groups, -1))[some])
    return out


def on_gpu(x: Tensor) -> bool:
    """Whether `basicsr.kernels` is there, and to be used."""
    return kernels is not None and kernels.accelerates(x)


def covers(window: Size, size: Size) -> bool:
    return window[0] >= size[0] and window[1] >= size[1]


def pad_to(x: Tensor, size: Size) -> Tensor:
    """Replicate the borders of (..., h, w) up to (..., H, W), the odd row or column at the end."""
    (h, w), (height, width) = x.shape[-2:], size
    left, top = (width - w) // 2, (height - h) // 2
    pads = (left, width - w - left, top, height - h - top)
    return F.pad(x.reshape(-1, *x.shape[-3:]), pads, mode="replicate").reshape(*x.shape[:-2], *size)


def _normed_at_once(x: Tensor) -> bool:
    """Whether a GPU's kernel norms x, whose sums, several times as large, exist as a whole then."""
    fits = x.ndim == 4 and x.dtype != torch.float64 and x.numel() <= _LARGE_MAP
    return fits and kernels is not None and kernels.triton_version("local_norm", x) is not None


def _runs_whole(x: Tensor) -> bool:
    """Whether a map is worked on in one piece: autograd and compilers do not write into parts of a tensor."""
    return torch.is_grad_enabled() or x.is_meta or torch.compiler.is_compiling()


def _chunk(x: Tensor) -> int:
    return _CHUNK if x.device.type == "cpu" else _LARGE_CHUNK


def _accumulator(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _normed(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    window: Size,
    eps: float,
    max_stride: Size | None,
    out: Tensor | None = None,
) -> Tensor:
    """Group norm of (..., G, C, H, W), the C channels of a group together; weight, bias: (G, C, 1, 1) or None.

    Sums are float64, but the map is not: the mean is taken off in two steps, what float32 has of it and the rest, so that no
    digit of the map is lost.

    Args: out: of the shape of x, where the result is written; fresh memory when None.
    """
    kind, strides = _at_least_float32(x), _strides(x.shape[-2:], window, max_stride)
    moments, centre = _moments(_kept(x, strides))
    mean, square = _repeated(_box_mean(moments, window, strides), strides).unbind(0)
    scale = torch.rsqrt((square - mean.square()).clamp_(min=0).add_(eps)) / _SMALLER
    mean = (mean + centre).mul_(-_SMALLER)
    most = mean.to(kind)
    statistics = torch.stack([most, (mean - most).to(kind), scale.to(kind)]).unsqueeze(-3)  # (3, ..., G, 1, h, w)
    if out is None or x.device.type != "cpu":  # elsewhere many small steps cost more than the copies
        whole = statistics if covers(window, x.shape[-2:]) else pad_to(statistics, x.shape[-2:])
        return _scaled(x, whole, weight, bias, out)
    sides = zip(x.shape[-2:], statistics.shape[-2:], strict=True)
    for (rows, own_rows), (columns, own_columns) in product(*(_bands(size, count) for size, count in sides)):
        place = out[..., rows, columns]
        _scaled(x[..., rows, columns], statistics[..., own_rows, own_columns], weight, bias, place)
    return out


def _scaled(x: Tensor, statistics: Tensor, weight: Tensor | None, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
    """The last step of `_normed`. statistics: of each pixel, or of several where a side is 1."""
    minus_most, minus_rest, scale = statistics.unbind(0)
    limit, ends_early = torch.finfo(x.dtype).max, x.dtype != scale.dtype
    part = torch.add(minus_most, x, alpha=_SMALLER, out=None if ends_early else out)
    part = part.add_(minus_rest).mul_(scale).clamp_(-limit, limit)
    part = part if weight is None else part.mul_(weight)
    part = part if bias is None else part.add_(bias)
    if not ends_early:
        return part
    part = part.clamp_(-limit, limit).to(x.dtype)
    return part if out is None else out.copy_(part)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of (..., G, C, H, W) the means over C of centred values and of their squares, (2, ..., G, H, W), and what was taken off,
    (..., G, 1, 1)."""
    kind = _accumulator(x)
    if _runs_whole(x):
        wide = x.to(kind)
        centre = wide.mean((-3, -2, -1), keepdim=True)
        wide = wide - centre
        return torch.stack([wide.mean(-3), wide.square().mean(-3)]), centre.squeeze(-3)
    moments = x.new_empty((2, *x.shape[:-3], *x.shape[-2:]), dtype=kind)
    wide = moments[0].unsqueeze(-3) if x.shape[-3] == 1 else x.new_empty(x.shape, dtype=kind)
    wide.copy_(x)
    centre = wide.mean((-3, -2, -1), keepdim=True)
    wide.sub_(centre)
    if x.shape[-3] == 1:
        torch.mul(moments[0], moments[0], out=moments[1])
    else:
        torch.mean(wide, -3, out=moments[0])
        torch.mean(wide.mul_(wide), -3, out=moments[1])
    return moments, centre.squeeze(-3)


def _bands(height: int, rows: int) -> list[tuple[slice, slice]]:
    """The rows of a map that share the first row of statistics, those that have one each, and those that share the last; so for
    columns."""
    top = (height - rows) // 2
    if rows in (1, height):
        return [(slice(None), slice(None))]
    bands = [
        (slice(0, top + 1), slice(0, 1)),
        (slice(top + 1, top + rows - 1), slice(1, rows - 1)),
        (slice(top + rows - 1, height), slice(rows - 1, rows)),
    ]
    return [band for band in bands if band[0].start < band[0].stop]


def _box_mean(x: Tensor, window: Size, strides: Size | None) -> Tensor:
    """Means over all windows inside the map, (..., H-k1+1, W-k2+1), in float32 at least but from a GPU's kernels, which sum in
    it; the global mean when the window covers the map. strides: of `fast_imp`, whose rows x has."""
    if strides is None and on_gpu(x):
        means = kernels.box_mean(x.reshape(-1, *x.shape[-3:]), window)
        return means.reshape(*x.shape[:-2], *means.shape[-2:])
    x = x.to(_at_least_float32(x))
    if strides is not None:
        return _strided_mean(_strided_mean(x, window[1] // strides[1], -1), window[0] // strides[0], -2)
    k1, k2 = (min(k, size) for k, size in zip(window, x.shape[-2:], strict=True))
    return _sliding_sum(_sliding_sum(x, k1, -2), k2, -1).div_(k1 * k2)


def _sliding_sum(x: Tensor, window: int, dim: int) -> Tensor:
    """Sums over all windows inside the map, in one dimension.

    A running sum: what enters the window is added, what leaves it is taken away. Unlike a difference of two prefix sums, it is
    exact where the map is flat, and never larger than what two windows hold.
    """
    moves = x.shape[dim] - window
    if moves == 0:
        return x.sum(dim, keepdim=True)
    first, enters, leaves = x.narrow(dim, 0, window), x.narrow(dim, window, moves), x.narrow(dim, 0, moves)
    if _runs_whole(x):
        return torch.cat([first.sum(dim, keepdim=True), enters - leaves], dim).cumsum(dim)
    sums = torch.empty_like(x.narrow(dim, 0, moves + 1))
    torch.sum(first, dim, keepdim=True, out=sums.narrow(dim, 0, 1))
    torch.sub(enters, leaves, out=sums.narrow(dim, 1, moves))
    if sums.stride(dim) < _FAR:
        return sums.cumsum_(dim)
    # Whole rows at a time: cumsum would walk through memory column by column. In blocks, so that there are few steps.
    block = math.isqrt(moves)
    whole = moves - moves % block
    blocks = sums.narrow(dim, 1, whole).unflatten(dim, (-1, block))
    for i in range(1, block):
        blocks.select(dim, i).add_(blocks.select(dim, i - 1))
    for first in range(0, whole, block):
        sums.narrow(dim, first + 1, block).add_(sums.narrow(dim, first, 1))
    for i in range(whole, moves):
        sums.select(dim, i + 1).add_(sums.select(dim, i))
    return sums


def _strides(size: Size, window: Size, max_stride: Size | None) -> Size | None:
    """How far apart the rows and the columns are that `fast_imp` keeps; None where the mean is exact."""
    if max_stride is None or covers(window, size):
        return None
    return tuple(min(cap, next(r for r in (5, 4, 3, 2, 1) if n % r == 0)) for n, cap in zip(size, max_stride, strict=True))


def _kept(x: Tensor, strides: Size | None) -> Tensor:
    return x if strides is None else x[..., :: strides[0], :: strides[1]]


def _repeated(x: Tensor, strides: Size | None) -> Tensor:
    """Each mean as often as rows and columns were skipped for it."""
    if strides is None:
        return x
    h, w = x.shape[-2:]
    rows, columns = (1 if count == 1 else stride for count, stride in zip((h, w), strides, strict=True))  # one goes with all
    x = x[..., :, None, :, None].expand(*x.shape[:-2], h, rows, w, columns)
    return x.reshape(*x.shape[:-4], h * rows, w * columns)


def _strided_mean(x: Tensor, window: int, dim: int) -> Tensor:
    """`fast_imp` in one dimension: the means over rows i+1 to i+k."""
    count = x.shape[dim]
    if count == 1:
        return x
    k = max(1, min(count - 1, window))
    sums = x.cumsum(dim, dtype=_accumulator(x))
    return ((sums.narrow(dim, k, count - k) - sums.narrow(dim, 0, count - k)) / k).to(x.dtype)
