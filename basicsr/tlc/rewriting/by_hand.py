"""Attention between channels by its definition: one window after the other, cropped out of the maps."""

from collections.abc import Callable

import torch
from torch import Tensor, fx

from basicsr.tlc.local import Size
from basicsr.tlc.local.covering import blended_starts, window_starts
from basicsr.tlc.rewriting.patterns import ChannelAttention
from basicsr.tlc.rewriting.patterns.reading import pixels_of
from basicsr.tlc.rewriting.trace import growing_dims


def in_windows(
    pattern: ChannelAttention,
    values: dict[fx.Node, Tensor],
    size: Size,
    window: Size,
    recomputed: Callable[[dict[fx.Node, Tensor]], Tensor],
) -> Tensor:
    """What it makes of the maps that it sums over.

    Args:
        values: of these maps.
        recomputed: the maps, cropped -> its output, by the module's own operations.
    """
    total, count = None, torch.zeros(size, dtype=torch.float64)
    rows, columns = (_weights(n, k, pattern.blended) for n, k in zip(size, window, strict=True))
    for top, down in rows:
        for left, across in columns:
            place = (..., slice(top, top + len(down)), slice(left, left + len(across)))
            crops = {}
            for x in pattern.summed:
                crop = _unflattened(x, values[x], size)[place]
                crops[x] = _flattened(x, crop)
            out, weights = recomputed(crops), torch.outer(down, across)
            out = _unflattened(pattern.node, out, (len(down), len(across)))
            total = out.new_zeros((*out.shape[:-2], *size)) if total is None else total
            total[place] += out * weights
            count[place] += weights
    return _flattened(pattern.node, total / count)


def _unflattened(x: fx.Node, value: Tensor, size: Size) -> Tensor:
    """(..., H, W) of a map whose pixels may be flattened, perhaps with channels."""
    dims = growing_dims(x)
    if len(dims) == 1:
        outer, inner, _ = pixels_of(x)
        value, dims = value.unflatten(dims[0], (outer, *size, inner)), (dims[0] + 1, dims[0] + 2)
    return value.movedim(dims, (-2, -1))


def _flattened(x: fx.Node, value: Tensor) -> Tensor:
    """The inverse."""
    dims = growing_dims(x)
    if len(dims) == 2:
        return value.movedim((-2, -1), dims).contiguous()
    return value.movedim((-2, -1), (dims[0] + 1, dims[0] + 2)).flatten(dims[0], dims[0] + 3).contiguous()


def _weights(size: int, window: int, blended: bool) -> list[tuple[int, Tensor]]:
    """Along one side of a map, for each window its first position and what it counts for at each of its positions."""
    window = min(window, size)
    if not blended:
        return [(start, torch.ones(window, dtype=torch.float64)) for start in window_starts(size, window)]
    starts = torch.tensor(blended_starts(size, window), dtype=torch.float64)
    offsets = torch.arange(window, dtype=torch.float64) - (window - 1) / 2  # from the centre
    weights = []
    for i, start in enumerate(starts):
        hat = torch.ones(window, dtype=torch.float64)
        if i > 0:
            hat = torch.minimum(hat, 1 + offsets / (start - starts[i - 1]))
        if i + 1 < len(starts):
            hat = torch.minimum(hat, 1 - offsets / (starts[i + 1] - start))
        weights.append((int(start), hat.clamp(min=0)))
    return weights
