"""Products of a map with matrices of windows that fade into one another: between four windows' centres a pixel hears them all,
each by how near it is, in rows and in columns."""

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from basicsr.kernels.cells import Cells, Ranges, kept
from basicsr.kernels.pointwise import mixed


class Side(NamedTuple):
    """Windows along one side of a map.

    Attributes:
        blocks: what the windows' centres cut it into.
        around: for each block the windows before and after it, the same one at the map's borders.
        centres: of each window.
    """

    blocks: Ranges
    around: Ranges
    centres: tuple[float, ...]


def blended(
    x: Tensor, matrices: Tensor, rows: Side, columns: Side, bias: Tensor | None = None, added: Tensor | None = None
) -> Tensor:
    """Each pixel's channels times the matrices of the four windows around it, interpolated; plus bias, plus added.

    Args:
        x: (N, C, H, W).
        matrices: (windows, N, K, C), row by row; of any floating type.
        bias: (K,). added: (N, K, H, W).

    Returns:
        (N, K, H, W), in the layout of x.
    """
    blocks, around = Cells(rows.blocks, columns.blocks, (), ()), _around(rows, columns, x.device)
    kind = torch.promote_types(x.dtype, torch.float32)
    down, right = (_shares(side, x.device, kind) for side in (rows, columns))
    matrices = matrices.to(x.dtype)
    for number, (i, j) in enumerate(product(range(2), repeat=2)):
        share = down[i][:, None] * right[j]
        added = mixed(x, matrices[around[number]], bias, added, blocks, share[None, None])
        bias = None  # it is added once
    return added


@kept
def _around(rows: Side, columns: Side, device: torch.device) -> Tensor:
    """(4, blocks): of each block the window above on the left, above on the right, below on the left, below on the right."""
    count = len(columns.centres)
    numbers = [
        [row[i] * count + column[j] for row, column in product(rows.around, columns.around)]
        for i, j in product(range(2), repeat=2)
    ]
    return torch.tensor(numbers).to(device)


@kept
def _shares(side: Side, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(2, positions): how much the windows before and after a position count."""
    lines = []
    for (first, last), (before, after) in zip(side.blocks, side.around, strict=True):
        begin, end = side.centres[before], side.centres[after]
        place = torch.arange(first, last, dtype=torch.float64)
        lines.append((place - begin) / (end - begin) if after > before else torch.zeros_like(place))
    later = torch.cat(lines)
    return torch.stack([1 - later, later]).to(device, dtype)
