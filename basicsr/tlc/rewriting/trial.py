"""What a forward is tried out on: random maps of a few rows and twice as many columns, and their sizes where it is told."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, fx

from basicsr.tlc.dryrun.attributes import Pair
from basicsr.tlc.dryrun.axes import known
from basicsr.tlc.local import Size
from basicsr.tlc.rewriting.arguments import Held, Samples, differ, mapped
from basicsr.tlc.rewriting.trace import Declined, growing, rows_and_columns

_SMALLEST = 6  # rows
_LARGEST = 1 << 23  # elements of all maps
Sides = tuple[Pair, Pair]  # rows and columns, each at both sizes of the dry run


@dataclass(frozen=True)
class Trial:
    """The values of the placeholders, and of the attributes that hold sizes, by their paths and names."""

    inputs: list[object]
    held: dict[str, object]


def trials(graph: fx.Graph, held: Held, generator: torch.Generator) -> Iterator[Trial]:
    """Two samples of each input, the smallest first; then larger ones, up to those of the training size, for a forward that
    does not run on so few pixels; last as the larger image has them, for one that is told what is no size of a map.

    Raises:
        Declined: an input is no map, and no sequence of its pixels.
    """
    values = [node.meta["values"] for node in graph.nodes if node.op == "placeholder"]
    maps, numbers = _leaves([*values, *held.values()])
    sides = _sides(maps, numbers)
    scales = [_Scale(sides, rows, columns) for rows, columns in _shrunk(maps, sides)]
    if sum(large.numel() for _, large in maps) <= _LARGEST:
        scales.append(_Larger())
    for scale in scales:
        try:
            inputs = [_tried(pair, scale, generator) for pair in values]
            yield Trial(inputs, {name: _tried(pair, scale, generator) for name, pair in held.items()})
        except _NoSize:
            continue


def pixels(small: Tensor, large: Tensor, channels: bool = False) -> Size | None:
    """Rows and columns, for the larger image, of the map whose pixels a sequence has, row by row; None where it is none.
    `channels`: it may hold these, too, outside or inside of the pixels."""
    dims = growing(small.shape, large.shape)
    atoms = known(large)[dims[0]] if len(dims) == 1 else ()
    if channels:
        placed = [i for i, atom in enumerate(atoms) if atom.axis]
        atoms = atoms[placed[0] : placed[-1] + 1] if placed else ()
    names = [atom.axis.name if atom.axis else "" for atom in atoms]
    if names not in (["rows", "columns"], ["rows", "rows", "columns"]):
        return None
    return math.prod(atom.size for atom in atoms[:-1]), atoms[-1].size


class _NoSize(Exception):
    """A number is not that of rows, of columns or of pixels of any map."""


def _leaves(values: list[Pair]) -> tuple[list[tuple[Tensor, Tensor]], list[Pair]]:
    """All tensors in them, and all numbers that depend on the image's size."""
    maps, numbers = [], []

    def leaf(small: object, large: object, path: tuple) -> None:
        if isinstance(small, Tensor):
            maps.append((small, large))
        elif type(small) is int and type(large) is int and small != large:
            numbers.append((small, large))

    for pair in values:
        mapped(pair, leaf)
    return maps, numbers


def _sides(maps: list[tuple[Tensor, Tensor]], numbers: list[Pair]) -> Sides | None:
    """Rows and columns of the first map, or of the first sequence of a map's pixels; else the first two numbers that are as
    many pixels as some sequence has. None: there are no maps."""
    sequences = []
    for small, large in maps:
        dims = growing(small.shape, large.shape)
        if rows_and_columns(small.shape, large.shape):
            return tuple((small.shape[dim], large.shape[dim]) for dim in dims)
        if len(dims) == 1:
            count = small.shape[dims[0]]
            sequences.append((count, large.shape[dims[0]]))
            if found := pixels(small, large):
                alike = (rows for rows, other in numbers if other == found[0] and rows and count % rows == 0)
                rows = next(alike, found[0] // 2)
                if count % rows == 0:
                    return (rows, found[0]), (count // rows, found[1])
    for i, rows in enumerate(numbers):
        for columns in numbers[i + 1 :]:
            if tuple(h * w for h, w in zip(rows, columns, strict=True)) in sequences:
                return rows, columns
    return None


def _shrunk(maps: list[tuple[Tensor, Tensor]], sides: Sides | None) -> Iterator[Size]:
    """Rows and columns of trials."""
    if sides is None:
        yield 1, 1
        return
    (rows, _), (columns, _) = sides
    sizes, factor = [rows, columns], 1
    for small, large in maps:
        sizes += [small.shape[dim] for dim in rows_and_columns(small.shape, large.shape) or ()]
    while all(size % (2 * factor) == 0 for size in sizes) and min(sizes) // (2 * factor) >= _SMALLEST:
        factor *= 2
    smallest, elements = factor, sum(small.numel() for small, _ in maps)
    while factor:
        if factor == smallest or 4 * elements // factor**2 <= _LARGEST:
            yield rows // factor, 2 * columns // factor
        factor //= 2


class _Scale:
    """What sizes of the dry run are in a trial."""

    def __init__(self, sides: Sides | None, rows: int, columns: int) -> None:
        self.sides = sides or ((1, 1), (1, 1))
        self.by = Fraction(rows, self.sides[0][0]), Fraction(columns, self.sides[1][0])
        self._last = 1

    def side(self, pair: Pair, side: int) -> int:
        return _whole(pair[0] * self.by[side])

    def of(self, pair: Pair) -> int:
        """Of a number that grows as rows, columns or pixels do."""
        small, large = pair
        if not (type(small) is int and type(large) is int and small):
            raise _NoSize
        grown, ratio = [Fraction(large, small) for small, large in self.sides], Fraction(large, small)
        if ratio == grown[0] == grown[1]:  # rows come before columns
            self._last = 1 - self._last
            return self.side(pair, self._last)
        if ratio in grown:
            return self.side(pair, grown.index(ratio))
        if ratio == grown[0] * grown[1]:
            return _whole(small * self.by[0] * self.by[1])
        raise _NoSize


class _Larger:
    """All sizes are those of the larger image."""

    def side(self, pair: Pair, side: int) -> int:
        return pair[1]

    def of(self, pair: Pair) -> int:
        return pair[1]


def _whole(size: Fraction) -> int:
    if size.denominator > 1:
        raise _NoSize
    return int(size)


def _tried(values: Pair, scale: _Scale | _Larger, generator: torch.Generator) -> object:
    """Random tensors, sizes and constants, in the lists, tuples and dicts that the values are in."""

    def made(small: object, large: object, path: tuple) -> object:
        if isinstance(small, Samples):
            return Samples(2 * small)
        if not isinstance(small, Tensor):
            return scale.of((small, large)) if differ(small, large) else small
        dims = growing(small.shape, large.shape)
        if len(dims) > 2 or (dims and dims[0] == 0):
            raise Declined("it is given a map whose rows and columns are no longer told apart", outward=True)
        if not small.is_floating_point():
            raise Declined("it is given something else than floating point numbers")
        shape = [2 * small.shape[0], *small.shape[1:]]
        for side, dim in enumerate(dims):
            pair = small.shape[dim], large.shape[dim]
            shape[dim] = scale.side(pair, side) if len(dims) == 2 else scale.of(pair)
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    return mapped(values, made)
