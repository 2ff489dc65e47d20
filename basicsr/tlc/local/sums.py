"""Matrices that are made of sums over a window, and maps that are multiplied by them: channel attention of any form.

Whatever a matrix sees the image by, q k^T, the squares of q, is a sum over the window's pixels; all else works on these sums,
the windows taken for further samples: (windows * N, ...), the windows first, in rows. What a map was multiplied by before, as
by the inverse of its norm, and what was added to it, is one value for all pixels of a window; so sums of the map as it was do,
and nothing is normalised in memory:

    sum over p of (s x(p) + t) (u y(p) + v) = s u sum x(p) y(p) + s v sum x(p) + t u sum y(p) + t v count.

Equations are those of torch.einsum, in lower case. `pixels` says which of their labels are a map's rows and columns, or both as
one that was flattened, and how many channels that one holds outside and inside of the pixels: (labels, outer, inner). An
operand is a tensor, what it is multiplied by, and what is added then, both with a size of one along the pixels, or None. A
cover is the map's size, the window, which is capped by it, and whether windows are blended.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import product

import torch
from torch import Tensor

from basicsr.tlc.local import Size, exporting
from basicsr.tlc.local.covering import (
    Blend,
    apply_blended,
    blended_starts,
    cells_of,
    map_like,
    product_of,
    total,
    window_starts,
)

Pixels = tuple[str, int, int]
Operand = tuple[Tensor, Tensor | None, Tensor | None]
Cover = tuple[Size, Size, bool]


def window_sums(
    equation: str, pixels: Pixels, operands: Sequence[Operand], cover: Cover, keep: tuple[int, ...] = (), mean: bool = False
) -> Tensor:
    """torch.einsum of one or two operands in each window, (windows * N, ...), in their precision.

    Args:
        equation: whose output has no label of the pixels.
        keep: dimensions of size one that the result is to have.
        mean: divided by the number of terms.
    """
    sums = _sums(equation, pixels, operands, cover)
    sums = sums / _count(equation, pixels, operands[0][0], cover) if mean else sums
    return _with_ones(sums.to(operands[0][0].dtype), keep)


def window_variance(
    equation: str, pixels: Pixels, operand: Operand, cover: Cover, keep: tuple[int, ...], correction: float, root: bool
) -> Tensor:
    """torch.var, or its root torch.std, in each window, as `window_sums`. The equation has one operand."""
    x, scale, shift = operand
    operand = (x.double(), scale, shift)  # the square of the mean is subtracted from the mean of the squares
    labels, out = equation.split("->")
    count = _count(equation, pixels, x, cover)
    mean = _sums(equation, pixels, [operand], cover) / count
    square = _sums(f"{labels},{labels}->{out}", pixels, [operand, operand], cover) / count
    variance = (square - mean.square()).clamp(min=0) * count / (count - correction)
    return _with_ones((variance.sqrt() if root else variance).to(x.dtype), keep)


def window_norm(
    equation: str, pixels: Pixels, operand: Operand, cover: Cover, keep: tuple[int, ...], eps: float | None = None
) -> Tensor:
    """The root of the sum of squares in each window, as `window_sums`; with `eps` its inverse, as F.normalize limits it. The
    equation has the operand twice."""
    squares = _sums(equation, pixels, [operand, operand], cover)
    if eps is None:
        return _with_ones(squares.clamp(min=0).sqrt().to(operand[0].dtype), keep)
    return _with_ones(squares.clamp(min=eps**2).rsqrt(), keep)  # clamped before the root, whose slope at zero is infinite


def window_product(equation: str, pixels: Pixels, matrices: Tensor, operand: Operand, cover: Cover) -> Tensor:
    """torch.einsum(equation, matrices, operand) with each window's matrices; outputs averaged where these overlap, or blended.

    Args:
        equation: in which the matrices come first; one of their labels is summed over, and one is not the operand's.
        matrices: (windows * N, ...).

    Returns:
        What the equation makes of one window's matrices and the operand.
    """
    x, scale, shift = operand
    (first, second), out = equation.split("->")[0].split(","), equation.split("->")[1]
    if scale is not None:
        scale = _constant(scale, x, scale.dtype, 1)
        _check_ones(scale, second, first)
        matrices = torch.einsum(f"{first},{second}->{first}", *_alike(matrices, scale))
    labels, long = _explicit(second, pixels), _explicit(out, pixels)
    batch = [label for label in labels if label in first and label in out]
    free = [label for label in labels if label not in first and label not in "RS"]
    (inner,) = (label for label in labels if label in first and label not in out)
    (outer,) = (label for label in first if label not in second)

    def applied(matrices: Tensor, values: Tensor) -> Tensor:
        matrices = matrices.permute([first.index(label) for label in (*batch, outer, inner)])
        return _applied(matrices[(slice(None),) * len(batch) + (None,) * len(free)], values, cover)

    values = _map(x, second, pixels, cover[0]).permute([labels.index(label) for label in (*batch, *free, inner, "R", "S")])
    result = applied(matrices, values)
    if shift is not None:
        shift = _constant(shift, x, shift.dtype, 0)
        _check_ones(shift, second, first)
        offsets = torch.einsum(f"{first},{second}->{first.replace(inner, '')}", *_alike(matrices, shift))
        ones = values.new_ones(1).expand(values.shape[0], *[1] * (values.ndim - 3), *cover[0])
        result = result + applied(offsets.unsqueeze(first.index(inner)), ones)
    order = [*batch, *free, outer, "R", "S"]
    result = result.permute([order.index(label) for label in long])
    return result if len(pixels[0]) == 2 else result.flatten(long.index("O"), long.index("I"))


def window_count(cover: Cover) -> int:
    if exporting.tracing():
        return exporting.window_count(cover)
    return len(_cells(cover, 0)[0]) * len(_cells(cover, 1)[0])


def over_windows(x: Tensor, count: int) -> Tensor:
    """One for each sample -> one for each window of each sample."""
    return x.repeat(count, *[1] * (x.ndim - 1))


def one_pixel(x: Tensor, like: Tensor, count: int, sizes: tuple[int, ...]) -> Tensor:
    """What all pixels of a window have in common, as if it had a single one: (windows * N, *sizes).

    Args:
        like: (N, ...). count: of windows.
    """
    return x.expand(like.shape[0] * count, *sizes)


def constant(value: float, like: Tensor) -> Tensor:
    """What all of a map is multiplied by, or what is added to it."""
    return torch.full((1,) * like.ndim, value, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)


def capped(size: int, window: int) -> int:
    """A window's rows or columns."""
    return exporting.capped(size, window) if exporting.tracing() else min(size, window)


def _sums(equation: str, pixels: Pixels, operands: Sequence[Operand], cover: Cover) -> Tensor:
    """In float32 at least, and in float64 where maps are shifted: then terms are large, and near one another."""
    labels, out = equation.split("->")[0].split(","), equation.split("->")[1]
    shifted = any(shift is not None for *_, shift in operands)
    x = operands[0][0]
    kind = torch.promote_types(x.dtype, torch.float64 if shifted and x.device.type != "mps" else torch.float32)
    with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
        scales = [_constant(scale, x, kind, 1) for x, scale, _ in operands]
        for scale, own in zip(scales, labels, strict=True):
            _check_ones(scale, own, out)
        result = _window_sums(equation, pixels, [x for x, *_ in operands], cover, kind)
        result = result * torch.einsum(equation, *scales)
        if not shifted:
            return result
        sums, shifts = [], []
        for own, (x, _, shift), scale in zip(labels, operands, scales, strict=True):
            kept = "".join(label for label in own if label not in pixels[0])
            summed = _window_sums(f"{own}->{kept}", pixels, [x], cover, kind)
            sums.append(scale * _with_ones(summed, tuple(own.index(label) for label in pixels[0])))
            sizes = [1 if label in (*pixels[0], *out) else n for label, n in zip(own, x.shape, strict=True)]
            shift = _constant(shift, x, kind, 0)
            shifts.append(shift.expand([max(a, b) for a, b in zip(sizes, shift.shape, strict=True)]))
        count = _count(f"{pixels[0]}->", pixels, x.new_empty(()), cover)
        for chosen in product((0, 1), repeat=len(operands)):
            if any(chosen):
                terms = [pair[which] for pair, which in zip(zip(sums, shifts, strict=True), chosen, strict=True)]
                result = result + torch.einsum(equation, *terms) * (count if all(chosen) else 1)
        return result


def _window_sums(equation: str, pixels: Pixels, maps: Sequence[Tensor], cover: Cover, kind: torch.dtype) -> Tensor:
    """(windows * N, ...), the maps as they are."""
    labels, out = equation.split("->")[0].split(","), equation.split("->")[1]
    squares = len(maps) == 2 and maps[0] is maps[1] and labels[0] == labels[1]
    own = [_explicit(x, pixels) for x in labels]
    maps = [_map(x, x_labels, pixels, cover[0]) for x, x_labels in zip(maps, labels, strict=True)]
    if exporting.tracing():
        return exporting.window_sums(own, out, [x.to(kind) for x in maps], cover)
    moved = [x.replace("R", "").replace("S", "") + "RS" for x in own]
    maps = [x.permute([before.index(label) for label in order]) for x, before, order in zip(maps, own, moved, strict=True)]

    def cell(row: slice, column: slice) -> Tensor:
        parts = [x[..., row, column].to(kind) for x in maps[: 1 if squares else None]]
        return torch.einsum(f"{','.join(moved)}->{out}", *([parts[0].contiguous()] * 2 if squares else parts))  # copied once

    by_rows = []
    (row_windows, rows), (column_windows, columns) = (_cells(cover, side) for side in (0, 1))
    for row in rows:
        cells = [cell(row, column) for column in columns]
        by_rows.append(torch.stack([total([cells[i] for i in window]) for window in column_windows]))
    return torch.stack([total([by_rows[i] for i in window]) for window in row_windows]).flatten(0, 2)


def _applied(matrices: Tensor, values: Tensor, cover: Cover) -> Tensor:
    """(windows * N, ..., K, C), (N, ..., C, H, W) -> (N, ..., K, H, W)."""
    if exporting.tracing():
        return exporting.applied(matrices, values, cover)
    size, window, blended = cover
    matrices = matrices.to(torch.promote_types(values.dtype, torch.float32))
    if blended:
        rows, columns = (Blend.of(n, k, values) for n, k in zip(size, window, strict=True))
        grid = matrices.unflatten(0, (len(rows.windows), len(columns.windows), values.shape[0]))
        return apply_blended(grid.__getitem__, values, rows, columns)
    (rows, row_cells), (columns, column_cells) = (_cells(cover, side) for side in (0, 1))
    grid, out = matrices.unflatten(0, (len(rows), len(columns), values.shape[0])), None
    for (i, row), (j, column) in product(enumerate(row_cells), enumerate(column_cells)):
        covering = [grid[a, b] for a, b in product(range(len(rows)), range(len(columns))) if i in rows[a] and j in columns[b]]
        part = product_of(torch.stack(covering).mean(0).unsqueeze(-3), values[..., row, column])
        out = map_like(part, size) if out is None else out
        out[..., row, column].copy_(part)
    return out


def _cells(cover: Cover, side: int) -> tuple[list[range], list[slice]]:
    size, window, blended = cover[0][side], cover[1][side], cover[2]
    return cells_of((blended_starts if blended else window_starts)(size, window), min(size, window))


def _explicit(labels: str, pixels: Pixels) -> str:
    """Rows are R and columns S; channels outside and inside of the pixels O and I."""
    names, *_ = pixels
    return labels.replace(names, "ORSI") if len(names) == 1 else labels.replace(names[0], "R").replace(names[1], "S")


def _map(x: Tensor, labels: str, pixels: Pixels, size: Size) -> Tensor:
    names, outer, inner = pixels
    return x.unflatten(labels.index(names), (outer, *size, inner)) if len(names) == 1 else x


def _count(equation: str, pixels: Pixels, x: Tensor, cover: Cover) -> int:
    """Terms in a window's sum."""
    names, outer, inner = pixels
    labels, out = equation.split("->")[0].split(",")[0], equation.split("->")[1]
    count = capped(cover[0][0], cover[1][0]) * capped(cover[0][1], cover[1][1]) * outer * inner
    for dim, label in enumerate(labels):
        if label not in (*out, *names):
            count = count * x.shape[dim]
    return count


def _constant(value: Tensor | None, x: Tensor, kind: torch.dtype, default: int) -> Tensor:
    """What an operand is multiplied by, or what is added."""
    if value is None:
        return torch.full((1,) * x.ndim, default, dtype=kind, device=x.device)
    return value.to(kind).reshape((1,) * (x.ndim - value.ndim) + tuple(value.shape))


def _check_ones(x: Tensor, labels: str, kept: str) -> None:
    if any(size != 1 for size, label in zip(x.shape, labels, strict=True) if label not in kept):
        raise ValueError("what is summed over was multiplied by numbers of its own")


def _with_ones(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    for dim in sorted(dims):
        x = x.unsqueeze(dim)
    return x


def _alike(*tensors: Tensor) -> list[Tensor]:
    kind = max((x.dtype for x in tensors), key=lambda dtype: dtype.itemsize)
    return [x.to(kind) for x in tensors]
