"""Channel attention inside windows: pure functions of maps (..., H, W) and windows (k1, k2).

Published windows overlap as little as they can, and their outputs are averaged where they do. So what a pixel gets jumps at the
windows' borders, and in smooth parts of a picture straight edges show there. Blended windows leave no seams: each begins where
the last but one before it ends, and between their centres their outputs are interpolated, in rows and in columns. In other
words, a window counts by a hat that falls from one at its centre to nothing at its border, or stays at one where that is the
map's. A pixel hears four windows instead of mostly one, which pays, too: see docs/comparison.md.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import product
from typing import TypeVar

import torch
from torch import Tensor

from basicsr.tlc.local import Size, exporting
from basicsr.tlc.local.covering import (
    Blend,
    apply_blended,
    blended_starts,
    blocks_between,
    cells_of,
    map_like,
    total,
    window_starts,
)
from basicsr.tlc.local.functional import kernels, on_gpu

Region = tuple[slice, slice]
Sums = tuple[Tensor, Tensor, Tensor]
Values = TypeVar("Values")


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
    if on_gpu(q) and project_out is not None:
        temperature = torch.as_tensor(temperature, device=q.device)
        with torch.autocast(q.device.type, enabled=False):
            return attend_in_cells(q, k, v.flatten(1, 2), window, temperature, project_out, blended=blended)

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
                lambda found: _attention(found, temperature),
                write,
            )
        if project_out is None:
            return attend_blended(v, window, sums, lambda found: _attention(found, temperature)).flatten(1, 2)
        return attend_blended(v.flatten(1, 2), window, sums, lambda found: _folded(_attention(found, temperature), project_out))


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
        cells_of(window_starts(n, k), min(n, k)) for n, k in zip(size, window, strict=True)
    )
    cells = {(i, j): (row, column) for i, row in enumerate(row_cells) for j, column in enumerate(column_cells)}
    read_cells = {key: read(region) for key, region in cells.items()}
    totals = {}
    for i, j in product(range(len(rows)), range(len(columns))):
        parts = [read_cells[key][0] for key in product(rows[i], columns[j])]
        totals[i, j] = tuple(total(terms) for terms in zip(*parts, strict=True))
    if on_gpu(totals[0, 0][0]):  # as one batch: many windows cost as much as one
        stacked = [torch.stack(terms) for terms in zip(*totals.values(), strict=True)]
        matrices = dict(zip(totals, _matrices(stacked, attention), strict=True))
    else:
        matrices = {key: attention(sums) for key, sums in totals.items()}
    given = out
    for key, region in cells.items():
        covering = [m for (i, j), m in matrices.items() if key[0] in rows[i] and key[1] in columns[j]]
        part = write(torch.stack(covering).mean(0), read_cells.pop(key)[1], region)
        if len(cells) == 1:
            return part
        if out is None or out.dtype != part.dtype:
            out = map_like(part, size)
        place = out[(..., *region)]
        if given is None or place.data_ptr() != part.data_ptr():  # compilers know no addresses
            place.copy_(part)
    return out


def attend_in_cells(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: Size,
    temperature: Tensor,
    project_out: Tensor,
    bias: Tensor | None = None,
    added: Tensor | None = None,
    *,
    blended: bool = False,
) -> Tensor:
    """`attend_in_windows` or `attend_blended` by `basicsr.kernels`: one kernel for the sums of all cells, one for the matrices
    of all windows, and one, or if blended four, for all products.

    Args:
        q, k: (N, heads, C, H, W). v: (N, heads * C, H, W). temperature: broadcastable to (heads, 1, 1).
        window: rows and columns; each is capped by the map's.
        project_out: (K, heads * C). bias: (K,). added: (N, K, H, W).

    Returns:
        (N, K, H, W), with bias and added added.
    """
    window = [min(n, k) for n, k in zip(q.shape[-2:], window, strict=True)]
    starts = [(blended_starts if blended else window_starts)(n, k) for n, k in zip(q.shape[-2:], window, strict=True)]
    (row_windows, rows), (column_windows, columns) = map(cells_of, starts, window)
    sides = (rows, columns, row_windows, column_windows)
    cells = kernels.Cells(*(tuple((part.start, part.stop) for part in side) for side in sides))
    cells = cells if cells.count > 1 else None
    if blended and cells:
        matrices = kernels.window_matrices(q, kernels.gram(q, k, cells), temperature, project_out, cells)
        sides = [_side(*of) for of in zip(starts, window, q.shape[-2:], strict=True)]
        return kernels.blended(v, matrices, *sides, bias, added)
    return kernels.mixed(v, kernels.attention_matrices(q, k, temperature, project_out, cells), bias, added, cells)


def _side(starts: list[int], window: int, size: int) -> "kernels.Side":
    blocks = blocks_between(starts, window, size)
    centres = tuple(start + (window - 1) / 2 for start in starts)
    return kernels.Side(tuple(block for block, _ in blocks), tuple((around[0], around[-1]) for _, around in blocks), centres)


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
    rows, columns = (Blend.of(n, k, values) for n, k in zip(size, window, strict=True))
    by_columns = []
    for row in rows.cells:
        found = columns.gather([sums((row, column)) for column in columns.cells])
        by_columns.append([torch.stack(terms) for terms in zip(*found, strict=True)])
    by_windows = rows.gather(by_columns)  # for each row of windows its sums, (windows, N, ...)
    return apply_blended(lambda i: _matrices(by_windows[i], attention), values, rows, columns, out)


def _matrices(sums: Sequence[Tensor], attention: Callable[[tuple[Tensor, ...]], Tensor]) -> Tensor:
    """Sums over windows, (windows, N, ...) -> their matrices, (windows, N, ..., K, C)."""
    return attention(tuple(x.flatten(0, 1) for x in sums)).unflatten(0, (sums[0].shape[0], -1))


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
