"""Channel attention inside windows: pure functions of maps (..., H, W) and windows (k1, k2).

Published windows overlap as little as they can, and their outputs are averaged where they do. So what a pixel gets jumps at the
windows' borders, and in smooth parts of a picture straight edges show there. Blended windows leave no seams: each begins where
the last but one before it ends, and between their centres their outputs are interpolated, in rows and in columns. In other
words, a window counts by a hat that falls from one at its centre to nothing at its border, or stays at one where that is the
map's. A pixel hears four windows instead of mostly one, which pays, too: see docs/comparison.md.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import pairwise, product
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from basicsr.tlc.local import Size, exporting
from basicsr.tlc.local.functional import kernels, on_gpu

Region = tuple[slice, slice]
Sums = tuple[Tensor, Tensor, Tensor]
Values = TypeVar("Values")
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


def local_channel_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    temperature: Tensor | float,
    window: Size,
    project_out: Tensor | None = None,
    *,
    blended: bool = False,
) -> Tensor:
    """Channel attention inside windows that cover the map, averaged where they overlap (TLC, section 3.3), or blended.

    In a window: softmax(normalised q @ normalised k^T * temperature) @ v, q and k L2-normalised along H*W.

    The windows' borders cut the map into disjoint cells, and everything is a sum over cells: q k^T and the norms are computed
    once a cell, and a window adds up its cells'. The mean over the windows that cover a cell is linear, so their mean attention
    matrix, with the output projection folded in, is applied to the cell's v. Nothing is normalised in memory.

    Args:
        q, k, v: (N, heads, C, H, W). temperature: broadcastable to (heads, 1, 1).
        window: rows and columns; each is capped by the map's.
        project_out: (out, heads * C) weight of the 1x1 convolution that follows, or None for the identity.
        blended: windows without seams, see the top of this file.

    Returns:
        (N, out, H, W), or (N, heads * C, H, W) without a projection.
    """
    if exporting.tracing():
        return exporting.local_channel_attention(q, k, v, temperature, window, project_out, blended)

    def sums(region: Region) -> Sums:
        return _gram(*(x[(..., *region)] for x in (q, k)))

    def write(attention: Tensor, values: Tensor, region: Region) -> Tensor:
        return _apply(attention, values, project_out).unflatten(-1, (region[0].stop - region[0].start, -1))

    with nullcontext() if q.is_meta else torch.autocast(q.device.type, enabled=False):
        if not blended:
            return attend_in_windows(
                q.shape[-2:],
                window,
                lambda region: (sums(region), v[(..., *region)].flatten(-2)),
                lambda total: _attention(total, temperature),
                write,
            )
        if project_out is None:
            return attend_blended(v, window, sums, lambda total: _attention(total, temperature)).flatten(1, 2)
        return attend_blended(v.flatten(1, 2), window, sums, lambda total: _folded(_attention(total, temperature), project_out))


def attend_in_windows(
    size: Size,
    window: Size,
    read: Callable[[Region], tuple[tuple[Tensor, ...], Values]],
    attention: Callable[[tuple[Tensor, ...]], Tensor],
    write: Callable[[Tensor, Values, Region], Tensor],
    out: Tensor | None = None,
) -> Tensor:
    """Attention whose matrix is a function of sums over the map, inside windows (TLC, section 3.3).

    The windows' borders cut the map into cells. A window's sums are those of its cells, so each cell is read once; and as the
    attention is linear in the values, the mean of the outputs of the windows that cover a cell is that of their matrices.

    Args:
        size: (H, W) of the map.
        read: region -> sums over it, which add up over regions, and the values there, of any type.
        attention: sums over a window -> its matrix.
        write: matrix, values and region -> (..., rows, columns), the output there.
        out: (..., H, W), where the output is to be; read and write may have put it there already. Fresh memory when None.

    Returns:
        (..., H, W).
    """
    (rows, row_cells), (columns, column_cells) = (
        _cells(window_starts(n, k), min(n, k)) for n, k in zip(size, window, strict=True)
    )
    cells = {(i, j): (row, column) for i, row in enumerate(row_cells) for j, column in enumerate(column_cells)}
    read_cells = {key: read(region) for key, region in cells.items()}
    totals = {}
    for i, j in product(range(len(rows)), range(len(columns))):
        parts = [read_cells[key][0] for key in product(rows[i], columns[j])]
        totals[i, j] = tuple(_total(terms) for terms in zip(*parts, strict=True))
    if on_gpu(totals[0, 0][0]):  # as one batch: many windows cost as much as one
        stacked = [torch.stack(terms) for terms in zip(*totals.values(), strict=True)]
        matrices = dict(zip(totals, _matrices(stacked, attention), strict=True))
    else:
        matrices = {key: attention(total) for key, total in totals.items()}
    given = out
    for key, region in cells.items():
        covering = [m for (i, j), m in matrices.items() if key[0] in rows[i] and key[1] in columns[j]]
        part = write(torch.stack(covering).mean(0), read_cells.pop(key)[1], region)
        if len(cells) == 1:
            return part
        if out is None or out.dtype != part.dtype:
            out = _map_like(part, size)
        place = out[(..., *region)]
        if given is None or place.data_ptr() != part.data_ptr():  # compilers know no addresses
            place.copy_(part)
    return out


def attend_blended(
    values: Tensor,
    window: Size,
    sums: Callable[[Region], Sequence[Tensor]],
    attention: Callable[[tuple[Tensor, ...]], Tensor],
    out: Tensor | None = None,
) -> Tensor:
    """Attention whose matrix is a function of sums over the map, inside windows that are blended.

    The windows' borders cut the map into cells of half a window, and each is read once. A pixel lies between the centres of
    four windows. Instead of the four products with their matrices it takes two: between the upper and the lower ones the
    matrices themselves are interpolated, once for a row.

    Args:
        values: (N, ..., C, H, W). Nothing looks at them before `sums` was called for every cell; it may put them there.
        window: rows and columns; each is capped by the map's.
        sums: region -> sums over it, which add up over regions; each is (N, ...).
        attention: sums over windows -> their matrices, (N, ..., K, C). It is given several windows as one batch.
        out: (N, ..., K, H, W), where the output is to be; it may be the values themselves when autograd does not need them.
            Fresh memory when None.

    Returns:
        (N, ..., K, H, W).
    """
    size = values.shape[-2:]
    rows, columns = (_Blend.of(n, k, values) for n, k in zip(size, window, strict=True))
    by_columns = []
    for row in rows.cells:
        found = columns.gather([sums((row, column)) for column in columns.cells])
        by_columns.append([torch.stack(terms) for terms in zip(*found, strict=True)])
    by_windows = rows.gather(by_columns)  # for each row of windows its sums, (windows, N, ...)
    matrices: dict[int, Tensor] = {}  # of two rows of windows, (windows, N, ..., K, C)
    for row, above_below, down in rows.blocks:
        matrices = {i: matrices[i] if i in matrices else _matrices(by_windows[i], attention) for i in above_below}
        for column, sides, right in columns.blocks:
            corners = [[matrices[i][j] for i in above_below] for j in sides]
            for strip, share in _strips(row, down, corners[0][0], column):
                part = _blended(corners, values[..., strip, column], share, right)
                out = _map_like(part, size) if out is None else out
                out[..., strip, column].copy_(part)
    return out


class _Blend(NamedTuple):
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
    def of(cls, size: int, window: int, like: Tensor) -> "_Blend":
        """`like`: whose device the shares are on, in its precision, float32 at least."""
        window = min(window, size)
        starts, blocks = blended_starts(size, window), []
        edges = [0, *(start + window // 2 for start in starts), size]  # the first position that is not before a centre
        kind = torch.promote_types(like.dtype, torch.float32)
        for i, (first, last) in enumerate(pairwise(edges)):
            if first == last:
                continue
            if i in (0, len(starts)):
                blocks.append((slice(first, last), (min(i, len(starts) - 1),), None))
                continue
            place = torch.arange(first, last, dtype=kind, device=like.device) - (starts[i - 1] + (window - 1) / 2)
            blocks.append((slice(first, last), (i - 1, i), place / (starts[i] - starts[i - 1])))
        return cls(*reversed(_cells(starts, window)), blocks)

    def gather(self, cells: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        """Sums over cells -> sums over windows."""
        return [[_total(terms) for terms in zip(*(cells[i] for i in window), strict=True)] for window in self.windows]


def _total(terms: Sequence[Tensor]) -> Tensor:
    """Their sum, on a GPU in two kernels."""
    return torch.stack(terms).sum(0) if on_gpu(terms[0]) else sum(terms)


def _matrices(sums: Sequence[Tensor], attention: Callable[[tuple[Tensor, ...]], Tensor]) -> Tensor:
    """Sums over windows, (windows, N, ...) -> their matrices, (windows, N, ..., K, C)."""
    return attention(tuple(x.flatten(0, 1) for x in sums)).unflatten(0, (sums[0].shape[0], -1))


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
            outputs.append(_product(column[0].unsqueeze(-3), x))
        else:
            above, below = (matrix.unsqueeze(-3) for matrix in column)
            outputs.append(_product(torch.lerp(above, below, down.view(-1, 1, 1)), x))
    return outputs[0] if right is None else torch.lerp(*outputs, right.to(outputs[0].dtype))


def _product(matrices: Tensor, x: Tensor) -> Tensor:
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


def _map_like(part: Tensor, size: Size) -> Tensor:
    """Fresh memory (..., C, H, W) of the type and layout of a part (..., C, h, w)."""
    if part.stride(-3) == 1:  # channels_last
        return part.new_empty((*part.shape[:-3], *size, part.shape[-3])).movedim(-1, -3)
    return part.new_empty((*part.shape[:-2], *size))


def _cells(starts: list[int], window: int) -> tuple[list[range], list[slice]]:
    """For windows by their starts the cells that they are made of, and the cells that their borders cut a side into."""
    edges = sorted({*starts, *(start + window for start in starts)})
    cells = [slice(a, b) for a, b in pairwise(edges)]
    return [range(edges.index(start), edges.index(start + window)) for start in starts], cells


def _gram(q: Tensor, k: Tensor) -> Sums:
    """Of (N, heads, C, H, W) q k^T and the squared norms of q's and k's channels; in float32 at least: half sums overflow."""
    if on_gpu(q):
        return kernels.gram(q, k)
    q, k = q.flatten(-2), k.flatten(-2)
    if q.dtype.itemsize < 4:
        q, k = q.float(), k.float()
    return q @ k.transpose(-2, -1), q.square().sum(-1), k.square().sum(-1)


def _attention(sums: Sums, temperature: Tensor | float) -> Tensor:
    """(N, heads, C, C) attention matrix of a window."""
    qk, qq, kk = sums
    tiny = 1e-24  # the square of F.normalize's eps; clamped before the root, whose slope at zero is infinite
    norms = qq.clamp(min=tiny).sqrt()[..., :, None] * kk.clamp(min=tiny).sqrt()[..., None, :]
    return (qk / norms * temperature).softmax(dim=-1)


def _apply(attention: Tensor, v: Tensor, project_out: Tensor | None) -> Tensor:
    """(N, heads, C, C), (N, heads, C, cell) -> (N, out, cell)."""
    if project_out is None:
        return (attention.to(v.dtype) @ v).flatten(1, 2)
    return _folded(attention, project_out).to(v.dtype) @ v.flatten(1, 2)


def _folded(attention: Tensor, project_out: Tensor) -> Tensor:
    """(N, heads, C, C), with the projection after it -> (N, out, heads * C)."""
    heads, c = attention.shape[1:3]
    folded = project_out.to(attention.dtype).view(-1, heads, c).transpose(0, 1) @ attention  # (N, heads, out, C)
    return folded.transpose(1, 2).flatten(2)
