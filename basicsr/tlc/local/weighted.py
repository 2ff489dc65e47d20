"""Local weighted means: softmax over the pixels of the window around each position, then the mean that it weighs.

Global context (GCNet, Cao et al., ICCV-W 2019, arXiv 1904.11492) and its kin. The local form is a ratio of two box sums, of
e * x and of e = exp(logits - reference), in float64. Weights are positive, and nothing is ever taken away from a sum, so that
windows keep their digits however small their weights are; where those of a whole window would vanish, as it lies so far below
the reference, it is computed with another one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.tlc.local import Size, exporting
from basicsr.tlc.local.functional import covers, pad_to
from basicsr.tlc.local.statistics import sliding_max

_BELOW = 600.0  # exp(-600) is far from the smallest number that float64 has
_BELOW_FLOAT32 = 60.0
_LEVELS = 2  # references, where the values of tensors cannot be asked for
_CHUNK = 1 << 22  # elements of a map that are worked on at a time


def local_weighted_mean(
    logits: Tensor,
    pixels: int,
    values: Tensor,
    dims: tuple[int, ...],
    size: Size,
    groups: int,
    transposed: bool,
    window: Size,
    padded: bool = True,
) -> Tensor:
    """Means of `values`, weighted by the softmax of `logits` over the window around each position.

    Args:
        logits: (N, ..., H * W, ...), that dimension `pixels`: M masks for each of `groups` groups of channels.
        values: (N, ..., H, W, ...), the last two `dims`, or (N, ..., H * W, ...), one of `dims`: C channels a group.
        size: H, W.
        transposed: the order of masks and channels in the output.
        padded: as `local_mean` has it.

    Returns:
        (N, groups, M, C, H, W), M and C exchanged if transposed; H and W are less unless padded, and 1 when the window covers
        the map.
    """
    n = values.shape[0]
    masks = logits.movedim(pixels, -1).reshape(n, groups, -1, *size)
    maps = values.movedim(dims, tuple(range(-len(dims), 0))).reshape(n, groups, -1, *size)
    means = _means(_wide(masks), maps, window)
    if padded and not exporting.tracing() and not covers(window, size):
        means = pad_to(means.flatten(1, 3), size).unflatten(1, means.shape[1:4])
    return (means.transpose(2, 3) if transposed else means).to(values.dtype)


def _means(logits: Tensor, values: Tensor, window: Size) -> Tensor:
    """(N, G, M, H, W), (N, G, C, H, W) -> (N, G, M, C, h, w), for the windows inside the map."""
    tracing = exporting.tracing()
    if not tracing and covers(window, logits.shape[-2:]):
        weights = logits.flatten(-2).softmax(-1)
        return (weights @ _wide(values).flatten(-2).mT)[..., None, None]
    if tracing:  # of any size: every decision is a tensor
        sums, highest, step = exporting.box_sum, exporting.box_max(logits, window), values.shape[2]
    else:
        sums, highest = _sums, sliding_max(sliding_max(logits, window[0], -2), window[1], -1)  # (N, G, M, h, w)
        step = max(1, _CHUNK // max(1, logits[:, :, :1].numel()))
    parts = values.split(step, 2)
    means = [_wide(part).new_full((*highest.shape[:3], part.shape[2], *highest.shape[-2:]), torch.nan) for part in parts]
    left = ~highest.isnan()  # the windows that are still to be computed
    static = tracing or logits.is_meta or torch.compiler.is_compiling()
    below = _BELOW if logits.dtype == torch.float64 else _BELOW_FLOAT32
    level = 0
    while level < _LEVELS if static else bool(left.any()):
        reference = highest.masked_fill(~left, -torch.inf).amax((-2, -1), keepdim=True)
        here = left & (highest >= reference - below)
        # Pixels above the reference are in no window of this level.
        weights = (logits - reference).masked_fill(logits > reference, -torch.inf).exp()
        total = sums(weights, window).masked_fill(~here, 1)
        for index, part in enumerate(parts):
            mixed = sums(weights.unsqueeze(3) * _wide(part).unsqueeze(2), window) / total.unsqueeze(3)
            means[index] = torch.where(here.unsqueeze(3), mixed, means[index])
        left, level = left & ~here, level + 1
    return torch.cat(means, 3)


def _sums(x: Tensor, window: Size) -> Tensor:
    """Over all windows inside the map, (..., H, W) -> (..., H-k1+1, W-k2+1)."""
    return _sliding_sum(_sliding_sum(x, window[0], -2), window[1], -1)


def _sliding_sum(x: Tensor, window: int, dim: int) -> Tensor:
    """Sums over all windows inside `dim`, by additions alone: a window of k has the end of one block of k and the beginning of
    the next (as van Herk, 1992, has it for maxima)."""
    size = x.shape[dim]
    if window >= size:
        return x.sum(dim, keepdim=True)
    x = x.movedim(dim, -1)
    blocks = F.pad(x, (0, -size % window)).unflatten(-1, (-1, window))
    beginnings = blocks.cumsum(-1)
    ends = blocks.flip(-1).cumsum(-1).flip(-1).flatten(-2)
    before = F.pad(beginnings[..., :-1], (1, 0)).flatten(-2)  # without the pixel itself
    count = size - window + 1
    behind = F.pad(before, (0, window))[..., window:][..., :count]
    return (ends[..., :count] + behind).movedim(-1, dim)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.device.type == "mps" else x.double()
