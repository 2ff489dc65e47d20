"""The cells that the borders of windows cut a map into, for kernels that work on all of them at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

Ranges = tuple[tuple[int, int], ...]  # first, and one after the last


class Cells(NamedTuple):
    """Every part of the rows with every part of the columns, row by row; so are the windows.

    Attributes:
        rows, columns: of the map, for each row and column of cells.
        row_windows, column_windows: the rows and columns of cells, for each row and column of windows.
    """

    rows: Ranges
    columns: Ranges
    row_windows: Ranges
    column_windows: Ranges

    @property
    def count(self) -> int:
        return len(self.rows) * len(self.columns)

    @property
    def largest(self) -> int:
        """Pixels of the largest cell."""
        return _longest(self.rows) * _longest(self.columns)

    @property
    def windows(self) -> int:
        return len(self.row_windows) * len(self.column_windows)

    @property
    def most(self) -> int:
        """Cells of the window that has most."""
        return _longest(self.row_windows) * _longest(self.column_windows)

    def regions(self) -> list[tuple]:
        """Indices of the cells in a map (..., H, W)."""
        return [(..., slice(*row), slice(*column)) for row, column in product(self.rows, self.columns)]

    def places(self, device: torch.device) -> Tensor:
        """(cells, 4): top, left, height and width."""
        return _corners(self.rows, self.columns, device)

    def covers(self, device: torch.device) -> Tensor:
        """(windows, 4): its first row and column of cells, and how many rows and columns of them."""
        return _corners(self.row_windows, self.column_windows, device)

    def memberships(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(windows, cells) in rows and in columns: 1 where a window holds a cell, on the device of `like`, of its type."""
        sides = ((self.row_windows, len(self.rows)), (self.column_windows, len(self.columns)))
        return tuple(_membership(*side, like.device, like.dtype) for side in sides)

    def shares(self, like: Tensor) -> Tensor:
        """(cells, windows): of each window that covers a cell, one part of as many as there are."""
        return _shares(self, like.device, like.dtype)


def _longest(ranges: Ranges) -> int:
    return max(b - a for a, b in ranges)


_noted: list[Tensor] | None = None


@contextmanager
def note_tables(tables: list[Tensor]) -> Iterator[None]:
    """Tables that are asked for inside are put into the list as well: a CUDA graph needs them as long as it lives."""
    global _noted
    before, _noted = _noted, tables
    try:
        yield
    finally:
        _noted = before


def kept(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A copy to a GPU costs more than a kernel, and an image has a few tables for dozens of layers."""
    cached = lru_cache(maxsize=256)(make)

    @wraps(make)
    def table(*args: object) -> Tensor:
        found = cached(*args)
        if _noted is not None:
            _noted.append(found)
        return found

    return table


@kept
def _corners(rows: Ranges, columns: Ranges, device: torch.device) -> Tensor:
    corners = [(a, c, b - a, d - c) for (a, b), (c, d) in product(rows, columns)]
    return torch.tensor(corners, dtype=torch.int32).to(device)


@kept
def _membership(windows: Ranges, cells: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor([[float(a <= i < b) for i in range(cells)] for a, b in windows]).to(device, dtype)


@kept
def _shares(cells: Cells, device: torch.device, dtype: torch.dtype) -> Tensor:
    rows, columns = cells.memberships(torch.empty(0, dtype=dtype))
    covering = torch.kron(rows, columns).T
    return (covering / covering.sum(1, keepdim=True)).to(device)
