"""Where a tensor's elements are in the image: for each dimension the rows and columns that it runs along.

A map's dimensions run along the rows and the columns, those of flattened pixels along both, those of windows along the rows
of windows and, inside, the rows of pixels. Channels and samples run along neither.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

LOST = "lost"


class Axis(NamedTuple):
    """Rows or columns: which of the image's an index is.

    Attributes:
        name: 'rows', 'columns'; LOST; where several maps were put together, the axes of all; where they were put one behind the
            other along the batch, how many samples have which.
        moves: what was done to their order, each with the offset before and the axis' length, in pixels of the image.
        offset: of the first index, in its own steps.
        scale: pixels of the image per step.
    """

    name: "str | frozenset[Axis] | tuple[tuple[int, Axis], ...]"
    moves: tuple[tuple, ...] = ()
    offset: float = 0.0
    scale: float = 1.0

    def cropped(self, start: int, step: float = 1) -> "Axis":
        """From an index on, every `step`-th; which of these it begins with makes no difference."""
        return self._replace(offset=(self.offset + start - start % step) / step, scale=self.scale * step)

    def moved(self, move: str, size: int) -> "Axis":
        """In another order; a second flip, or the inverse transform, brings the first one back."""
        inverse = {"flip": "flip", "ifft": "fft", "fft": "ifft"}.get(move)
        if self.moves and self.moves[-1][0] == inverse and self._fits(size):
            return self._before()
        return self._appended(move, size)

    def rolled(self, shift: int, size: int) -> "Axis":
        length, shift = size * self.scale, shift * self.scale
        if self.moves and self.moves[-1][0] == "roll" and self._fits(size):
            return self._before()._rolled(shift + self.moves[-1][3], length, size)
        return self._rolled(shift, length, size)

    def _rolled(self, shift: float, length: float, size: int) -> "Axis":
        return self._appended("roll", size, shift % length) if shift % length else self

    def _appended(self, move: str, size: int, *more: float) -> "Axis":
        done = (*self.moves, (move, self.offset * self.scale, size * self.scale, *more))
        return self._replace(moves=done, offset=0.0)

    def _fits(self, size: int) -> bool:
        """Whether nothing was cropped since the last move."""
        return self.offset == 0 and math.isclose(self.moves[-1][2], size * self.scale)

    def _before(self) -> "Axis":
        return self._replace(moves=self.moves[:-1], offset=self.moves[-1][1] / self.scale)


class Atom(NamedTuple):
    """A dimension, or a part of one: `size` indices, each `stride` steps along the axis from the last one; or along none."""

    size: int
    axis: Axis | None = None
    stride: float = 1


Dim = tuple[Atom, ...]  # outer parts first; () for a size of one
Layout = tuple[Dim, ...]


def layout_of(x: object) -> Layout | None:
    """None: nothing in it is known to be anywhere in the image."""
    return getattr(x, "_tlc_layout", None)


def known(x: Tensor) -> Layout:
    layout = layout_of(x)
    return tuple(map(plain, x.shape)) if layout is None else layout


def place(x: Tensor, layout: Layout | None) -> None:
    x._tlc_layout = layout


def place_image(x: Tensor) -> None:
    """(N, C, H, W)"""
    axes = (None, None, Axis("rows"), Axis("columns"))
    place(x, tuple(_dim(size, axis) for size, axis in zip(x.shape, axes, strict=True)))


def lost(shape: Sequence[int], why: str) -> Layout:
    return tuple(_dim(size, Axis(LOST, ((why,),))) for size in shape)


def on_meta(x: Tensor) -> Tensor:
    moved = x.to("meta")
    place(moved, layout_of(x))
    return moved


def place_as(x: Tensor, other: Tensor | None) -> None:
    """What a local layer, or a kernel that is not seen, makes of a map is where that map, or the centre of a window, is."""
    if other is None or x.ndim < 3:
        return
    dims = [plain(size) for size in x.shape]
    for back in (-1, -2):
        axis, missing = axis_of(known(other)[back]), other.shape[back] - x.shape[back]
        dims[back] = along(x.shape[back], axis and axis._replace(offset=axis.offset + missing // 2))
    place(x, tuple(dims))


def plain(size: int) -> Dim:
    """Along neither rows nor columns."""
    return _dim(size, None)


def along(size: int, axis: Axis | None) -> Dim:
    return _dim(size, axis)


def _dim(size: int, axis: Axis | None) -> Dim:
    return (Atom(size, axis),) if size != 1 else ()


def is_placed(dim: Dim) -> bool:
    return any(atom.axis is not None for atom in dim)


def size_of(dim: Dim) -> int:
    return math.prod(atom.size for atom in dim)


def axis_of(dim: Dim) -> Axis | None:
    """The rows or columns that a dimension runs along, finer where each was divided; None where along neither."""
    if not is_placed(dim):
        return None
    first, *inner = dim
    if first.axis is None or is_placed(tuple(inner)):
        return Axis(LOST, (("reshape",),))
    return first.axis.cropped(0, first.stride / size_of(tuple(inner)))


def joined(atoms: Iterable[Atom]) -> Dim:
    """As few parts as there can be."""
    done: list[Atom] = []
    for atom in atoms:
        last = done[-1] if done else None
        if last and last.axis == atom.axis and (atom.axis is None or last.stride == atom.stride * atom.size):
            done[-1] = Atom(last.size * atom.size, atom.axis, atom.stride)
        else:
            done.append(atom)
    return tuple(done)


def regrouped(layout: Layout, shape: Sequence[int]) -> Layout | None:
    """The layout of a view of that shape; None where a dimension would hold a part of rows that is none."""
    rest = [*reversed(joined(atom for dim in layout for atom in dim))]
    dims = []
    for size in shape:
        dim = []
        while size > 1:
            if not rest:
                return None
            atom = rest.pop()
            if size % atom.size and atom.size % size:
                return None
            if size % atom.size:
                inner = atom.size // size
                rest.append(Atom(inner, atom.axis, atom.stride))
                atom = Atom(size, atom.axis, atom.stride * inner if atom.axis else 1)
            dim.append(atom)
            size //= atom.size
        dims.append(joined(dim))
    return tuple(dims)


def same(a: Axis, b: Axis) -> bool:
    """Whether an index means the same place; not those that nobody knows."""
    known = LOST not in (a.name, b.name)
    return known and a[:2] == b[:2] and math.isclose(a.offset, b.offset, abs_tol=1e-6) and 0.8 < a.scale / b.scale < 1.25


def agree(a: Dim, b: Dim) -> bool:
    """Whether an index of two dimensions means the same place, or one of them is in none."""
    return a == b or not is_placed(a) or not is_placed(b) or _same_parts(a, b) or same(axis_of(a), axis_of(b))


def _same_parts(a: Dim, b: Dim) -> bool:
    """Part by part, as the same windows of maps of two scales have them."""
    if [(atom.size, atom.axis is None) for atom in a] != [(atom.size, atom.axis is None) for atom in b]:
        return False
    steps = [[atom.axis.cropped(0, atom.stride) for atom in dim if atom.axis] for dim in (a, b)]
    return all(map(same, *steps))


def met(a: Dim, b: Dim) -> Dim:
    """The dimension of what is made of two tensors, index by index."""
    if a == b or not is_placed(b):
        return a if is_placed(a) or a else b
    if not is_placed(a) or agree(a, b):
        return a if is_placed(a) else b
    axes = axis_of(a), axis_of(b)
    unknown = next((axis for axis in axes if axis.name == LOST), None)
    if unknown:  # nor are its parts those that were joined any more
        return along(
            size_of(a), unknown._replace(moves=tuple(move[:1] if move[0] == "cat" else move for move in unknown.moves))
        )
    members = frozenset().union(*map(_members, axes))
    return along(size_of(a), Axis(members, scale=axes[0].scale))


def _members(axis: Axis) -> frozenset[Axis]:
    if isinstance(axis.name, frozenset) and not axis.moves and not axis.offset:
        return axis.name
    return frozenset({axis._replace(offset=axis.offset * axis.scale, scale=1.0)})


def stacked(parts: Sequence[tuple[int, Dim]]) -> Dim:
    """A dimension of samples that are in several places: numbers of samples, and theirs."""
    size, members = size_of(parts[0][1]), [member for count, dim in parts for member in _samples(count, dim)]
    first = members[0][1]
    if not any(is_placed(dim) for _, dim in parts):
        return parts[0][1]
    if any(axis is None or axis.name == LOST for _, axis in members):
        return along(size, Axis(LOST, (("cat",),)))
    if all(same(first, axis) for _, axis in members):
        return parts[0][1] if _is_one(parts[0][1]) else along(size, first)
    scale = first.scale
    members = [(n, axis._replace(offset=axis.offset * axis.scale, scale=axis.scale / scale)) for n, axis in members]
    return along(size, Axis(tuple(members), scale=scale))


def unstacked(dim: Dim, start: int, count: int) -> Dim:
    """The dimension of some of these samples."""
    if _is_one(dim):
        return dim
    parts, end = [], start + count
    for samples, member in _samples(0, dim):
        taken = min(samples, end) - max(start, 0)
        if taken > 0:
            parts.append((taken, along(size_of(dim), member)))
        start, end = start - samples, end - samples
    return stacked(parts)


def _is_one(dim: Dim) -> bool:
    """Whether all samples are in the same place."""
    axis = axis_of(dim)
    return axis is None or not isinstance(axis.name, tuple)


def _samples(count: int, dim: Dim) -> list[tuple[int, Axis | None]]:
    axis = axis_of(dim)
    if _is_one(dim):
        return [(count, axis)]
    if axis.moves:
        return [(samples, Axis(LOST, (("cat",),))) for samples, _ in axis.name]
    return [
        (
            samples,
            member._replace(offset=member.offset / (member.scale * axis.scale) + axis.offset, scale=member.scale * axis.scale),
        )
        for samples, member in axis.name
    ]


def misplaced(rows: Axis | None, columns: Axis | None) -> str:
    """Why a window on a map with these rows and columns would be none on the image, or ''."""
    if rows is None or columns is None:
        return "the rows and columns of its map are not those of the image: a window on it has no meaning"
    moves = _moves(rows) | _moves(columns)
    if moves & {"fft", "ifft", "half"}:
        return "its map is a spectrum: neighbours there are frequencies, not pixels, and a window on it has no meaning"
    if unknown := sorted(moves - {"flip", "roll"}):
        return f"the pixels of its map are in another order since {unknown[0]}, so that a window on it is none on the image"
    if "columns" in _names(rows) or "rows" in _names(columns):
        return "the rows of its map are the image's columns: transpose them back before"
    return ""


def _moves(axis: Axis) -> set[str]:
    return {move[0] for move in axis.moves}.union(*map(_moves, _parts(axis)))


def _names(axis: Axis) -> set[str]:
    return set().union(*map(_names, _parts(axis))) if _parts(axis) else {axis.name}


def _parts(axis: Axis) -> list[Axis]:
    if isinstance(axis.name, tuple):
        return [member for _, member in axis.name]
    return [] if isinstance(axis.name, str) else [*axis.name]
