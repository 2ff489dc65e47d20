"""Local statistics other than the mean, each the operation that torch has under that name over the window around each position.

All are built on `local_mean`: of squares, of centred squares, of all channels of a group. Squares are taken in float64 (float32
where a device has none), and variances of centred values, so that flat regions stay exact and half precision does not overflow.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.tlc.local import Size
from basicsr.tlc.local.attention import local_channel_attention
from basicsr.tlc.local.functional import covers, local_mean


def local_sum(x: Tensor, window: Size, max_stride: Size | None = None) -> Tensor:
    """The sum of the window's pixels: x (N, C, H, W), and returns, as `local_mean`."""
    return (local_mean(_wide(x), window, max_stride) * _count(x, window)).to(x.dtype)


def local_max(x: Tensor, window: Size, max_stride: Size | None = None) -> Tensor:
    """The largest of the window's pixels: x (N, C, H, W), and returns, as `local_mean`; exact whatever `max_stride`."""
    size = x.shape[-2:]
    if covers(window, size):
        return x.amax((-2, -1), keepdim=True)
    inside = _sliding_max(_sliding_max(x, window[0], -2), window[1], -1)
    rows, columns = size[0] - inside.shape[-2], size[1] - inside.shape[-1]
    pads = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return F.pad(_wide(inside), pads, mode="replicate").to(x.dtype)  # older PyTorch does not pad half precision


def local_norm(x: Tensor, window: Size, max_stride: Size | None = None) -> Tensor:
    """The L2 norm of the window's pixels: x (N, C, H, W), and returns, as `local_mean`.

    It grows with the window as the global norm grows with the map. Global response norm (ConvNeXt V2, arXiv 2301.00808,
    equation 2) divides it by its mean over channels, where the size of the window cancels.
    """
    squares = local_mean(_wide(x).square(), window, max_stride)
    return (squares.clamp(min=0) * _count(x, window)).sqrt().to(x.dtype)


def local_variance(x: Tensor, window: Size, max_stride: Size | None = None, correction: float = 1) -> Tensor:
    """torch.var over the window's pixels: x (N, C, H, W), and returns, as `local_mean`; correction as torch.var has it."""
    return _variance(x, window, max_stride, correction).to(x.dtype)


def local_std(x: Tensor, window: Size, max_stride: Size | None = None, correction: float = 1) -> Tensor:
    """torch.std over the window's pixels: as `local_variance`."""
    return _variance(x, window, max_stride, correction).sqrt().to(x.dtype)


_STATISTICS: dict[str, Callable[..., Tensor]] = {
    "mean": local_mean,
    "sum": local_sum,
    "max": local_max,
    "norm": local_norm,
    "var": local_variance,
    "std": local_std,
}


def local_statistic(
    x: Tensor, kind: str, dims: Size, window: Size, max_stride: Size | None = None, correction: float | None = None
) -> Tensor:
    """A local statistic of a map of any layout.

    Args:
        x: the map, its batch first; `dims`: which of its dimensions are rows and columns.
        kind: mean, sum, max, norm, var or std; `correction` for the last two.

    Returns:
        The shape of x; 1 along `dims` when the window covers the map.
    """
    options = {} if correction is None else {"correction": correction}
    lead = x.movedim(dims, (-2, -1))
    out = _STATISTICS[kind](lead.reshape(x.shape[0], -1, *lead.shape[-2:]), window, max_stride, **options)
    return out.reshape(*lead.shape[:-2], *out.shape[-2:]).movedim((-2, -1), dims)


def to_batch(statistic: Tensor, dims: Size, shape: tuple[int, ...]) -> Tensor:
    """The positions of a local statistic as further samples: (N, ..., rows, columns) -> (N * rows * columns, *shape).

    What follows on a global statistic, a vector for each sample, then treats each position's by itself.
    """
    return statistic.movedim(dims, (1, 2)).flatten(0, 2).reshape(-1, *shape).contiguous()


def from_batch(vectors: Tensor, statistic: Tensor, dims: Size, out_dims: Size) -> Tensor:
    """Undo `to_batch`: (N * rows * columns, ...) with 1 along `out_dims` -> (N, ...) with rows and columns along `out_dims`.

    Args:
        statistic, dims: those that `to_batch` was given.
    """
    counts = (statistic.shape[0], statistic.shape[dims[0]], statistic.shape[dims[1]])
    positions = vectors.unflatten(0, counts)
    return positions.squeeze(out_dims[1] + 2).squeeze(out_dims[0] + 2).movedim((1, 2), out_dims)


def local_token_attention(
    q: Tensor, k: Tensor, v: Tensor, temperature: Tensor | float, size: Size, window: Size, blended: bool = False
) -> Tensor:
    """`local_channel_attention` of maps whose rows and columns, `size`, were flattened.

    Args: q, k, v (N, heads, C, H * W) or (N, C, H * W), not normalised yet.
    Returns: the shape of v.
    """
    heads = [x.unsqueeze(1) if x.ndim == 3 else x for x in (q, k, v)]
    maps = [x.unflatten(-1, size) for x in heads]  # (N, heads, C, H, W)
    return local_channel_attention(*maps, temperature, window, blended=blended).reshape(v.shape)


def _variance(x: Tensor, window: Size, max_stride: Size | None, correction: float) -> Tensor:
    wide = _wide(x)
    centred = wide - wide.mean((-2, -1), keepdim=True)
    mean = local_mean(centred, window, max_stride)
    count = _count(x, window)
    variance = (local_mean(centred.square(), window, max_stride) - mean.square()).clamp(min=0)
    return variance * count / max(0, count - correction)  # of a single pixel, torch has nan, too


def _sliding_max(x: Tensor, window: int, dim: int) -> Tensor:
    """Maxima over all windows inside `dim`, at a cost that does not grow with the window (van Herk, 1992).

    A window of k reaches over one border between blocks of k: it has the end of one block and the beginning of the next.
    """
    size = x.shape[dim]
    if window >= size:
        return x.amax(dim, keepdim=True)
    x = x.movedim(dim, -1)
    blocks = F.pad(x, (0, -size % window), value=-torch.inf).unflatten(-1, (-1, window))
    beginnings = blocks.cummax(-1).values.flatten(-2)
    ends = blocks.flip(-1).cummax(-1).values.flip(-1).flatten(-2)
    count = size - window + 1
    return torch.maximum(ends[..., :count], beginnings[..., window - 1 :][..., :count]).movedim(-1, dim)


def _count(x: Tensor, window: Size) -> int:
    return min(window[0], x.shape[-2]) * min(window[1], x.shape[-1])


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.device.type == "mps" else x.double()
