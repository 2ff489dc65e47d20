"""Attention between channels (Restormer, arXiv 2111.09881, equation 1) as matrices that are applied to every pixel."""

import torch
from torch import Tensor

from basicsr.kernels.cells import Cells
from basicsr.kernels.choice import triton_version
from basicsr.kernels.gram import gram

Sums = tuple[Tensor, Tensor, Tensor]
TINY = 1e-24  # the square of F.normalize's eps; clamped before the root, whose slope at zero is infinite
_MOST = 64  # channels of a head that a program keeps on the chip


def attention_matrices(q: Tensor, k: Tensor, temperature: Tensor, project: Tensor, cells: Cells | None = None) -> Tensor:
    """The attention between channels over a whole map, with the projection after it; or inside windows, the mean of the
    matrices of all windows that cover a cell. To be called without autocast.

    Args:
        q, k: (N, heads, C, H, W).
        temperature: broadcastable to (heads, 1, 1).
        project: (K, heads * C), or of a 1x1 convolution.

    Returns:
        (N, K, heads * C), or with cells (cells, N, K, heads * C), in float32 at least.
    """
    return matrices_of(q, gram(q, k, cells), temperature, project, cells)


def matrices_of(q: Tensor, sums: Sums, temperature: Tensor, project: Tensor, cells: Cells | None = None) -> Tensor:
    """`attention_matrices` where `gram`'s sums of q and k are there."""
    matrices = window_matrices(q, sums, temperature, project, cells)
    return matrices if cells is None else _averaged(matrices, cells)


def window_matrices(q: Tensor, sums: Sums, temperature: Tensor, project: Tensor, cells: Cells | None = None) -> Tensor:
    """As `matrices_of`, but with cells each window's own, (windows, N, K, heads * C)."""
    fits = q.shape[2] <= _MOST and q.dtype != torch.float64
    if fits and (launch := triton_version("attention", q)):
        return launch(sums, temperature, project, cells)
    if cells is None:
        return folded(sums, temperature, project)
    of_windows = tuple(_of_windows(x, cells).flatten(0, 1) for x in sums)
    return folded(of_windows, temperature, project).unflatten(0, (-1, q.shape[0]))


def folded(sums: Sums, temperature: Tensor, project: Tensor) -> Tensor:
    """Of `gram`'s sums (N, K, heads * C): softmax(q k^T / norms * temperature) and the projection after it, which is linear, in
    one matrix."""
    qk, qq, kk = sums
    norms = qq.clamp(min=TINY).sqrt()[..., :, None] * kk.clamp(min=TINY).sqrt()[..., None, :]
    attention = (qk / norms * temperature).softmax(dim=-1)  # (N, heads, C, C)
    heads, c = attention.shape[-3:-1]
    project = project.to(attention.dtype).flatten(1).view(-1, heads, c).transpose(0, 1)  # (heads, K, C)
    return (project @ attention).transpose(1, 2).flatten(2)


def _of_windows(x: Tensor, cells: Cells) -> Tensor:
    """Sums over cells (cells, N, ...) -> over windows (windows, N, ...). No product of matrices: GPUs may round to TF32."""
    by_rows, by_columns = cells.memberships(x)
    grid = x.unflatten(0, (len(cells.rows), len(cells.columns))).flatten(2)
    grid = (grid[None] * by_rows[:, :, None, None]).sum(1)
    return (grid[:, None] * by_columns[:, :, None]).sum(2).flatten(0, 1).unflatten(-1, x.shape[1:])


def _averaged(matrices: Tensor, cells: Cells) -> Tensor:
    """(windows, N, ...) -> (cells, N, ...), the means over the windows that cover a cell."""
    return (cells.shares(matrices) @ matrices.flatten(1)).unflatten(-1, matrices.shape[1:])


def trial(x: Tensor) -> Tensor:
    """For `choice.agrees`."""
    cells = Cells(((0, 10), (10, 33)), ((0, 41),), ((0, 1), (0, 2)), ((0, 1),))
    maps = x.unflatten(1, (2, -1))
    return attention_matrices(maps, maps.roll(1, -1), x[0, :2, 0, 0].view(2, 1, 1), x[0, :20, :20, 0], cells)
