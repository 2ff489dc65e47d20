"""Local statistics and local channel attention: pure functions of tensors (..., H, W) and windows (k1, k2).

Statistics are accumulated in float64 (float32 where a device has no float64) of centred values, whatever the input's precision:
prefix sums in the activations' own precision lose the variance of flat regions, and E[x^2] - E[x]^2 then turns negative.
"""

from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]  # rows, columns
_CHUNK = 1 << 22  # elements of a map that are worked on at a time, so that float64 copies stay small


def local_mean(x: Tensor, window: Size, max_stride: Size | None = None) -> Tensor:
    """Mean over the window around each position (TLC, section 3.2).

    Args:
        x: (N, C, H, W) or (C, H, W), any floating dtype.
        window: rows and columns; each is capped by the map's.
        max_stride: None for the exact mean, equal to F.avg_pool2d(x, window, stride=1) with replicated borders; or the caps
            (rows, columns) of the strides of the published approximation `fast_imp`.

    Returns:
        The shape of x; (..., 1, 1) when the window covers the map, where the mean is the global one.
    """

    if covers(window, x.shape[-2:]):
        return x.mean((-2, -1), keepdim=True)

    def mean(part: Tensor) -> Tensor:
        boxes = _box_mean(part.to(_accumulator(part)), window, max_stride)
        return _pad_to(boxes, part.shape[-2:]).to(x.dtype)

    return _by_channels(mean, x)


def local_instance_norm(
    x: Tensor, window: Size, weight: Tensor | None, bias: Tensor | None, eps: float, max_stride: Size | None = None
) -> Tensor:
    """Instance norm with the mean and biased variance of the window around each position.

    Args: as `local_mean`; weight, bias: (C,) or None.
    Finite for every finite input: the variance is that of centred values and never below zero.
    """
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


def covers(window: Size, size: Size) -> bool:
    return window[0] >= size[0] and window[1] >= size[1]


def window_starts(size: int, window: int) -> list[int]:
    """First rows of the windows that cover `size` rows: evenly spread, the last one flush with the border."""
    window = min(window, size)
    count = (size - 1) // window + 1
    if count == 1:
        return [0]
    step = -(-(size - window) // (count - 1))
    return [*range(0, size - window, step), size - window]


def local_channel_attention(
    q: Tensor, k: Tensor, v: Tensor, temperature: Tensor | float, window: Size, project_out: Tensor | None = None
) -> Tensor:
    """Channel attention inside windows that cover the map, averaged where they overlap (TLC, section 3.3).

    In a window: softmax(normalised q @ normalised k^T * temperature) @ v, q and k L2-normalised along H*W.

    The windows' borders cut the map into disjoint cells, and everything is a sum over cells: q k^T and the norms are computed
    once a cell, and a window adds up its cells'. The mean over the windows that cover a cell is linear, so their mean attention
    matrix, with the output projection folded in, is applied to the cell's v. Nothing is normalised in memory.

    Args:
        q, k, v: (N, heads, C, H, W). temperature: broadcastable to (heads, 1, 1).
        window: rows and columns; each is capped by the map's.
        project_out: (out, heads * C) weight of the 1x1 convolution that follows, or None for the identity.

    Returns:
        (N, out, H, W), or (N, heads * C, H, W) without a projection.
    """
    height, width = q.shape[-2:]
    rows, row_cells = _cells(height, window[0])
    columns, column_cells = _cells(width, window[1])
    with nullcontext() if q.is_meta else torch.autocast(q.device.type, enabled=False):
        grams = {
            (i, j): _gram(_cut(q, row, column), _cut(k, row, column))
            for i, row in enumerate(row_cells)
            for j, column in enumerate(column_cells)
        }
        attentions = {
            (i, j): _attention([grams[a, b] for a in rows[i] for b in columns[j]], temperature)
            for i in range(len(rows))
            for j in range(len(columns))
        }
        out = []
        for i, row in enumerate(row_cells):
            line = []
            for j, column in enumerate(column_cells):
                covering = [m for (a, b), m in attentions.items() if i in rows[a] and j in columns[b]]
                mixed = torch.stack(covering).mean(0)  # (N, heads, C, C)
                value = _cut(v, row, column)  # (N, heads, C, cell)
                line.append(_apply(mixed, value, project_out).unflatten(-1, (row.stop - row.start, -1)))
            out.append(torch.cat(line, dim=-1))
        return torch.cat(out, dim=-2)


def _cells(size: int, window: int) -> tuple[list[range], list[slice]]:
    """The cells that the windows' borders cut `size` into, and for each window the cells it is made of."""
    window = min(window, size)
    starts = window_starts(size, window)
    edges = sorted({*starts, *(start + window for start in starts)})
    cells = [slice(a, b) for a, b in pairwise(edges)]
    return [range(edges.index(start), edges.index(start + window)) for start in starts], cells


def _cut(x: Tensor, row: slice, column: slice) -> Tensor:
    return x[..., row, column].flatten(-2)  # (N, heads, C, cell)


def _gram(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q k^T, and the squared norms of q's and k's rows; in float32 at least, since half sums overflow."""
    if q.dtype.itemsize < 4:
        q, k = q.float(), k.float()
    return q @ k.transpose(-2, -1), q.square().sum(-1), k.square().sum(-1)


def _attention(grams: list[tuple[Tensor, Tensor, Tensor]], temperature: Tensor | float) -> Tensor:
    """(N, heads, C, C) attention matrix of the window that is made of these cells."""
    qk, qq, kk = (sum(parts) for parts in zip(*grams, strict=True))
    tiny = 1e-24  # the square of F.normalize's eps; clamped before the root, whose slope at zero is infinite
    norms = qq.clamp(min=tiny).sqrt()[..., :, None] * kk.clamp(min=tiny).sqrt()[..., None, :]
    return (qk / norms * temperature).softmax(dim=-1)


def _apply(attention: Tensor, v: Tensor, project_out: Tensor | None) -> Tensor:
    """(N, heads, C, C), (N, heads, C, cell) -> (N, out, cell)."""
    if project_out is None:
        return (attention.to(v.dtype) @ v).flatten(1, 2)
    heads, c = attention.shape[1:3]
    folded = project_out.to(attention.dtype).view(-1, heads, c).transpose(0, 1) @ attention  # (N, heads, out, C)
    return folded.transpose(1, 2).flatten(2).to(v.dtype) @ v.flatten(1, 2)


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
    """Means over all windows inside the map, (..., H-k1+1, W-k2+1); the global mean when the window covers it."""
    if max_stride is not None and not covers(window, x.shape[-2:]):
        return _strided_mean(_strided_mean(x, window[1], max_stride[1], -1), window[0], max_stride[0], -2)
    return _sliding_mean(_sliding_mean(x, window[1], -1), window[0], -2)


def _sliding_mean(x: Tensor, window: int, dim: int) -> Tensor:
    size = x.shape[dim]
    if window >= size:
        return x.mean(dim, keepdim=True)
    sums = x.cumsum(dim)
    # The first window's sum is itself a prefix; the others are differences of two prefixes.
    first = sums.narrow(dim, window - 1, 1)
    others = sums.narrow(dim, window, size - window) - sums.narrow(dim, 0, size - window)
    return torch.cat([first, others], dim) / window


def _strided_mean(x: Tensor, window: int, max_stride: int, dim: int) -> Tensor:
    """`fast_imp` in one dimension: the mean over every r-th row of rows i+1 to i+k, repeated r times."""
    size = x.shape[dim]
    stride = min(max_stride, next(r for r in (5, 4, 3, 2, 1) if size % r == 0))
    kept = x.index_select(dim, torch.arange(0, size, stride, device=x.device))
    count = kept.shape[dim]
    if count > 1:
        k = max(1, min(count - 1, window // stride))
        sums = kept.cumsum(dim)
        kept = (sums.narrow(dim, k, count - k) - sums.narrow(dim, 0, count - k)) / k
    return kept.repeat_interleave(stride, dim)
