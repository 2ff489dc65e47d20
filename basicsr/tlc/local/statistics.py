"""Local statistics other than the mean, each the operation that torch has under that name over the window around each position.

All are built on `local_mean`: of squares, of centred squares. Squares are taken in float64 (float32 where a device has none),
and variances of centred values, so that flat regions stay exact and half precision does not overflow. `padded` is that of
`local_mean`: without it borders are left to `spread`, and what follows on a statistic is computed for the windows there are.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.tlc.local import Size, exporting
from basicsr.tlc.local.attention import local_channel_attention
from basicsr.tlc.local.functional import covers, local_mean, pad_to


def local_sum(x: Tensor, window: Size, max_stride: Size | None = None, *, padded: bool = True) -> Tensor:
    """The sum of the window's pixels: x (N, C, H, W), and returns, as `local_mean`."""
    return (local_mean(_wide(x), window, max_stride, padded=padded) * _count(x, window)).to(x.dtype)


def local_max(x: Tensor, window: Size, max_stride: Size | None = None, *, padded: bool = True) -> Tensor:
    """The largest of the window's pixels: x (N, C, H, W), and returns, as `local_mean`; exact whatever `max_stride`."""
    if exporting.tracing():
        return exporting.box_max(x, window)
    size = x.shape[-2:]
    if covers(window, size):
        return x.amax((-2, -1), keepdim=True)
    inside = sliding_max(sliding_max(x, window[0], -2), window[1], -1)
    return pad_to(_wide(inside), size).to(x.dtype) if padded else inside  # older PyTorch does not pad half precision


def local_min(x: Tensor, window: Size, max_stride: Size | None = None, *, padded: bool = True) -> Tensor:
    """The smallest of the window's pixels: as `local_max`."""
    return -local_max(-x, window, max_stride, padded=padded)


def local_norm(x: Tensor, window: Size, max_stride: Size | None = None, *, padded: bool = True) -> Tensor:
    """The L2 norm of the window's pixels: x (N, C, H, W), and returns, as `local_mean`.

    It grows with the window as the global norm grows with the map. Global response norm (ConvNeXt V2, arXiv 2301.00808,
    equation 2) divides it by its mean over channels, where the size of the window cancels.
    """
    squares = local_mean(_wide(x).square(), window, max_stride, padded=padded)
    return (squares.clamp(min=0) * _count(x, window)).sqrt().to(x.dtype)


_STATISTICS: dict[str, Callable[..., Tensor]] = {
    "mean": local_mean,
    "sum": local_sum,
    "max": local_max,
    "min": local_min,
    "norm": local_norm,
}


# Along further dimensions, at each pixel.
_ALONG: dict[str, Callable[..., Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "max": torch.amax,
    "min": torch.amin,
    "norm": torch.linalg.vector_norm,
}


def local_statistic(
    x: Tensor,
    kind: str,
    dims: Size,
    window: Size,
    max_stride: Size | None = None,
    correction: float | None = None,
    padded: bool = True,
    channels: tuple[int, ...] | None = None,
    over: tuple[int, ...] = (),
) -> Tensor:
    """A local statistic of a map of any layout.

    Args:
        x: the map, its batch first; `dims`: which of its dimensions are rows and columns.
        kind: mean, sum, max, min, norm, var or std; `correction` for the last two.
        channels: sizes that the dimensions between batch and pixels, which are the last two, are taken as; None: as they are.
        over: dimensions that the statistic is taken over, too; after that.

    Returns:
        The shape of x, less along `dims` unless padded; 1 along `over`, and along `dims` when the window covers the map.
    """
    options = {"padded": padded} if correction is None else {"padded": padded, "correction": correction}
    if channels is not None:
        x, dims = x.reshape(x.shape[0], *channels, *x.shape[-2:]), (len(channels) + 1, len(channels) + 2)
    lead = x.movedim((*over, *dims), tuple(range(-2 - len(over), 0)))
    kept = lead.shape[: lead.ndim - 2 - len(over)]
    maps = lead.reshape(x.shape[0], math.prod(kept[1:]), -1, *lead.shape[-2:])
    if kind in _ALONG:
        maps = (
            _ALONG[kind](maps.to(torch.promote_types(x.dtype, torch.float32)), dim=2).to(x.dtype) if over else maps.squeeze(2)
        )
        out = _STATISTICS[kind](maps, window, max_stride, **options)
    else:
        out = _variance(maps, window, max_stride, **options)
        out = (out.sqrt() if kind == "std" else out).to(x.dtype)
    out = out.reshape(*kept, *[1] * len(over), *out.shape[-2:])
    return out.movedim(tuple(range(-2 - len(over), 0)), (*over, *dims))


def spread(x: Tensor, dims: Size, of: Tensor, of_dims: Size, broadcasts: bool) -> Tensor:
    """What was made of a statistic that is not padded, its borders replicated up to the map's size.

    Args:
        x: its rows and columns along `dims`; a single one, of a window that covers the map, stays as it is.
        of, of_dims: the map that the statistic is of. (PyTorch 2.4 compiles no closure over a variable called `source`.)
        broadcasts: what is given the result makes one row do for all, and one column.
    """
    size = tuple(of.shape[dim] for dim in of_dims)
    found = tuple(x.shape[dim] for dim in dims)
    if exporting.tracing() or found in (size, (1, 1)):
        return x
    if broadcasts:
        size = tuple(1 if count == 1 else length for count, length in zip(found, size, strict=True))
    maps = x.movedim(dims, (-2, -1))
    kind = torch.promote_types(x.dtype, torch.float32)  # older PyTorch does not pad half precision
    return pad_to(maps.to(kind), size).to(x.dtype).movedim((-2, -1), dims)


def to_batch(statistic: Tensor, dims: tuple[int, ...], shape: tuple[int, ...] | None = None) -> Tensor:
    """The positions of a local statistic as further samples: (N, ..., rows, columns) -> (N * rows * columns, *shape).

    What follows on a global statistic, a vector for each sample, then treats each position's by itself.

    Args:
        dims: of the positions, rows and columns or one of them.
        shape: of a sample; by default the other dimensions.
    """
    samples = statistic.movedim(dims, tuple(range(1, len(dims) + 1))).flatten(0, len(dims))
    return (samples if shape is None else samples.reshape(-1, *shape)).contiguous()


def from_batch(vectors: Tensor, statistic: Tensor, dims: tuple[int, ...], out_dims: tuple[int, ...]) -> Tensor:
    """Undo `to_batch`: (N * rows * columns, ...) with 1 along `out_dims` -> (N, ...) with rows and columns along `out_dims`.

    Each sample may have become several, such as heads: (N * rows * columns * heads, ...) -> (N * heads, ...).

    Args:
        statistic, dims: those that `to_batch` was given.
    """
    positions = vectors.unflatten(0, (statistic.shape[0], *(statistic.shape[dim] for dim in dims), -1))
    positions = positions.movedim(len(dims) + 1, 1).flatten(0, 1)
    for dim in reversed(out_dims):
        positions = positions.squeeze(dim + len(dims))
    return positions.movedim(tuple(range(1, len(dims) + 1)), out_dims)


def pixels_as_samples(x: Tensor, dims: Size) -> Tensor:
    """(N, ..., H, W, ...) -> (N * H * W, ..., 1, 1, ...): a map's pixels as further samples, each a map of its own; `dims`: its
    rows and columns."""
    samples = to_batch(x, dims)
    for dim in dims:
        samples = samples.unsqueeze(dim)
    return samples


def repeated(vectors: Tensor, statistic: Tensor, dims: tuple[int, ...], of: Tensor, of_dims: Size) -> Tensor:
    """What was made of a statistic, for each pixel of the map that it is of: also where its window covers the map, so that
    there is one for all.

    Args:
        vectors: (N * rows * columns, ...); statistic, dims: those that `to_batch` was given.

    Returns:
        (N * H * W, ...).
    """
    found, size = (statistic.shape[dim] for dim in dims), tuple(of.shape[dim] for dim in of_dims)
    positions = vectors.unflatten(0, (statistic.shape[0], *found))
    return positions.expand(-1, *size, *[-1] * (vectors.ndim - 1)).flatten(0, 2)


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


def _variance(x: Tensor, window: Size, max_stride: Size | None, correction: float = 1, padded: bool = True) -> Tensor:
    """Of (..., C, H, W) over the window's pixels and C."""
    wide = _wide(x)
    centred = wide - wide.mean((-3, -2, -1), keepdim=True)
    moments = (maps.squeeze(-3) if x.shape[-3] == 1 else maps.mean(-3) for maps in (centred, centred.square()))
    mean, square = (local_mean(maps, window, max_stride, padded=padded) for maps in moments)
    variance = (square - mean.square()).clamp(min=0)
    count = _count(x, window) * x.shape[-3]
    return variance * count / max(0, count - correction)  # of a single pixel, torch has nan, too


def sliding_max(x: Tensor, window: int, dim: int) -> Tensor:
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
