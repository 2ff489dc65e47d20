"""Means over every window inside a map: TLC's local average (arXiv 2112.04491, section 3.2)."""

import torch
from torch import Tensor

from basicsr.kernels.choice import triton_version


def box_mean(x: Tensor, window: tuple[int, int]) -> Tensor:
    """(N, C, H, W) -> (N, C, H-k1+1, W-k2+1), of the type of x: F.avg_pool2d(x, (k1, k2), stride=1) by running sums.

    Sums are in float32 at least. What enters a window is added and what leaves it is taken away, so that flat regions are
    exact, which they are not in a difference of two prefix sums.

    Args:
        window: rows and columns; each is capped by the map's.
    """
    k1, k2 = (min(k, size) for k, size in zip(window, x.shape[-2:], strict=True))
    if launch := triton_version("box_mean", x):
        return launch(x, k1, k2)
    wide = x.float() if x.dtype.itemsize < 4 else x
    return (_sliding_sum(_sliding_sum(wide, k1, -2), k2, -1) / (k1 * k2)).to(x.dtype)


def _sliding_sum(x: Tensor, window: int, dim: int) -> Tensor:
    """Sums over all windows inside the map, in one dimension, of which the kernels do not grow in number with the map."""
    moves = x.shape[dim] - window
    first = x.narrow(dim, 0, window).sum(dim, keepdim=True)
    changes = x.narrow(dim, window, moves) - x.narrow(dim, 0, moves)
    return torch.cat([first, changes], dim).cumsum(dim)


def trial(x: Tensor) -> Tensor:
    """For `choice.agrees`."""
    return box_mean(x, (5, 7))
