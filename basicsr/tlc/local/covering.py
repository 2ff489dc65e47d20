"""How windows cover a map, and products of a map with matrices that differ from window to window.

Windows that overlap as little as they can: where they do, their outputs are averaged. Blended windows: between their centres
their outputs are interpolated (see `attention`).
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from basicsr.tlc.local import Size
from basicsr.tlc.local.functional import on_gpu

_STRIP = 1 << 19  # elements of the matrices and outputs of those rows that are worked on at a time


def window_starts(size: int, window: int) -> list[int]:
    """First rows of the windows that cover `size` rows: evenly spread, the last one flush with the border."""
    window = min(window, size)
    count = (size - 1) // window + 1
    if count == 1:
        return [0]
    step = -(-(size - window) // (count - 1))
    return [*range(0, size - window, step), size - window]


def blended_starts(size: int, window: int) -> list[int]:
    """First rows of the windows that are blended: half a window apart, the last one flush with the border."""
    window = min(window, size)
    last = size - window
    return [*dict.fromkeys(i * window // 2 for i in range(-(-2 * last // window))), last]


def blocks_between(starts: list[int], window: int, size: int) -> list[tuple[tuple[int, int], tuple[int, ...]]]:
    """What the centres of windows cut a side into: first position, and one after the last; the windows on both sides by their
    numbers, one at the map's borders."""
    edges = [0, *(start + window // 2 for start in starts), size]  # the first position that is not before a centre
    blocks = []
    for i, (first, last) in enumerate(pairwise(edges)):
        around = (min(i, len(starts) - 1),) if i in (0, len(starts)) else (i - 1, i)
        blocks += [((first, last), around)] if first < last else []
    return blocks


def apply_blended(
    matrices: Callable[[int], Tensor], values: Tensor, rows: "Blend", columns: "Blend", out: Tensor | None = None
) -> Tensor:
    """Products of a map with the matrices around each pixel, interpolated.

    Args:
        matrices: a row of windows by its number -> (windows, N, ..., K, C).
        values: (N, ..., C, H, W).
        out: (N, ..., K, H, W), where the output is to be. Fresh memory when None.

    Returns:
        (N, ..., K, H, W).
    """
    made: dict[int, Tensor] = {}  # of two rows of windows
    for row, above_below, down in rows.blocks:
        made = {i: made[i] if i in made else matrices(i) for i in above_below}
        for column, sides, right in columns.blocks:
            corners = [[made[i][j] for i in above_below] for j in sides]
            for strip, share in _strips(row, down, corners[0][0], column):
                part = _blended(corners, values[..., strip, column], share, right)
                out = map_like(part, values.shape[-2:]) if out is None else out
                out[..., strip, column].copy_(part)
    return out


class Blend(NamedTuple):
    """Blended windows along one side of a map.

    Attributes:
        cells: what the windows' borders cut it into.
        windows: for each window the cells it is made of.
        blocks: what the windows' centres cut it into, with the windows on both sides, one at the map's borders, and how much of
            the second one a position takes, (positions,); None where there is one.
    """

    cells: list[slice]
    windows: list[range]
    blocks: list[tuple[slice, tuple[int, ...], Tensor | None]]

    @classmethod
    def of(cls, size: int, window: int, like: Tensor) -> "Blend":
        """`like`: whose device the shares are on, in its precision, float32 at least."""
        window = min(window, size)
        starts, blocks = blended_starts(size, window), []
        kind = torch.promote_types(like.dtype, torch.float32)
        for (first, last), around in blocks_between(starts, window, size):
            share = None
            if len(around) == 2:
                before, after = (starts[i] for i in around)
                place = torch.arange(first, last, dtype=kind, device=like.device) - (before + (window - 1) / 2)
                share = place / (after - before)
            blocks.append((slice(first, last), around, share))
        return cls(*reversed(cells_of(starts, window)), blocks)

    def gather(self, cells: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        """Sums over cells -> sums over windows."""
        return [[total(terms) for terms in zip(*(cells[i] for i in window), strict=True)] for window in self.windows]


def total(terms: Sequence[Tensor]) -> Tensor:
    """Their sum, on a GPU in two kernels."""
    return torch.stack(terms).sum(0) if on_gpu(terms[0]) else sum(terms)


def _strips(rows: slice, down: Tensor | None, matrix: Tensor, columns: slice) -> Iterator[tuple[slice, Tensor | None]]:
    """Some rows at a time, with their shares of the lower window, so that their matrices and outputs stay in the cache."""
    out_channels, channels = matrix.shape[-2:]
    elements = matrix.shape[:-2].numel() * out_channels * (channels + columns.stop - columns.start)
    step = max(1, _STRIP // (2 * elements or 1))  # an empty batch has none
    for first in range(rows.start, rows.stop, step):
        last = min(first + step, rows.stop)
        yield slice(first, last), None if down is None else down[first - rows.start : last - rows.start]


def _blended(corners: list[list[Tensor]], x: Tensor, down: Tensor | None, right: Tensor | None) -> Tensor:
    """The interpolated products of some rows with the matrices around them.

    Args:
        corners: by column of windows, and in it from above, one or two matrices (N, ..., K, C).
        x: (N, ..., C, rows, columns).
        down, right: (rows,) and (columns,), the shares of the lower and the right matrices; None where there is one.

    Returns:
        (N, ..., K, rows, columns).
    """
    outputs = []
    for column in corners:
        if down is None:
            outputs.append(product_of(column[0].unsqueeze(-3), x))
        else:
            above, below = (matrix.unsqueeze(-3) for matrix in column)
            outputs.append(product_of(torch.lerp(above, below, down.view(-1, 1, 1)), x))
    return outputs[0] if right is None else torch.lerp(*outputs, right.to(outputs[0].dtype))


def product_of(matrices: Tensor, x: Tensor) -> Tensor:
    """(N, ..., rows or 1, K, C), (N, ..., C, rows, columns) -> (N, ..., K, rows, columns), in the layout of x."""
    matrices, alike = matrices.to(x.dtype), matrices.shape[-3] == 1
    if x.stride(-3) == 1:  # channels_last
        pixels = x.movedim(-3, -1)  # (N, ..., rows, columns, C)
        pixels = pixels.flatten(-3, -2).unsqueeze(-3) if alike else pixels
        out = (pixels @ matrices.transpose(-2, -1)).flatten(-3, -2)
        return out.unflatten(-2, x.shape[-2:]).movedim(-1, -3)
    pixels = x.flatten(-2).unsqueeze(-3) if alike else x.transpose(-3, -2)  # (N, ..., rows, C, columns)
    out = matrices @ pixels
    return out.squeeze(-3).unflatten(-1, x.shape[-2:]) if alike else out.transpose(-3, -2)


def map_like(part: Tensor, size: Size) -> Tensor:
    """Fresh memory (..., C, H, W) of the type and layout of a part (..., C, h, w)."""
    if part.stride(-3) == 1:  # channels_last
        return part.new_empty((*part.shape[:-3], *size, part.shape[-3])).movedim(-1, -3)
    return part.new_empty((*part.shape[:-2], *size))


def cells_of(starts: list[int], window: int) -> tuple[list[range], list[slice]]:
    """For windows by their starts the cells that they are made of, and the cells that their borders cut a side into."""
    edges = sorted({*starts, *(start + window for start in starts)})
    cells = [slice(a, b) for a, b in pairwise(edges)]
    return [range(edges.index(start), edges.index(start + window)) for start in starts], cells
