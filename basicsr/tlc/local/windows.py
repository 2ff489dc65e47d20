"""Any operation on maps inside windows that cover them: for what has no form position by position, such as attention over
pixels, spectra and scans.

The windows are those of attention between channels (see `attention`): as published, evenly spread, and averaged where they
overlap; or blended, half a window apart, each counting by a hat around its centre. They are run one by one: memory is that of
one window and of the result, and an operation never sees more samples than it was given, which it may mix.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from basicsr.tlc.local import Size
from basicsr.tlc.local.attention import Region
from basicsr.tlc.local.covering import blended_starts, window_starts
from basicsr.tlc.local.exporting import tracing

NOT_EXPORTED = "{} runs in windows, of which a trace would keep the number; export without in_windows"


@dataclass(frozen=True)
class Pixels:
    """A tensor that has something for each pixel.

    Attributes:
        dims: its rows and columns, or the one dimension in which pixels are, row by row.
        scale: its rows and columns per row and column of the maps that the operation is given.
    """

    dims: tuple[int, ...]
    scale: Size = (1, 1)


@dataclass(frozen=True)
class Extent:
    """A number: of the map's rows (0), of its columns (1), or the product of both."""

    sides: tuple[int, ...]


# What a value is: of tuples, lists and dicts, what they hold is; None: it is the same for all windows.
Role = Pixels | Extent | Sequence["Role"] | Mapping[str, "Role"] | None


def mapped(function: Callable, role: Role, *values: object) -> object:
    """function(role, *values) for all that tuples, lists and dicts hold, in such tuples, lists and dicts."""
    if isinstance(role, Mapping):
        return {name: mapped(function, part, *(value[name] for value in values)) for name, part in role.items()}
    if isinstance(role, Sequence):
        parts = [mapped(function, *part) for part in zip(role, *values, strict=True)]
        if hasattr(values[0], "_fields"):
            return type(values[0])(*parts)
        return parts if isinstance(values[0], list) else tuple(parts)
    return function(role, *values)


def in_windows(
    run: Callable[[Sequence], object],
    given: Sequence,
    roles: Sequence[Role],
    result: Role,
    window: Size,
    *,
    blended: bool = False,
) -> object:
    """An operation in windows that cover the maps that it is given; as it is where one window does.

    Args:
        run: the operation, of a list of arguments.
        given, roles: the arguments, and what they are: maps of one size, that size, and what is the same for all windows.
        result: what the operation makes of them: maps.
        window: rows and columns; each is capped by the map's.

    Raises:
        ValueError: what it makes of a window is of another size than its share of the whole.
    """
    size = _size(given, roles)
    if all(k >= n for k, n in zip(window, size, strict=True)):
        return run(given)
    window, totals, out = tuple(map(min, window, size)), [], None
    starts = [(blended_starts if blended else window_starts)(n, k) for n, k in zip(size, window, strict=True)]
    for top in starts[0]:
        for left in starts[1]:
            region = slice(top, top + window[0]), slice(left, left + window[1])
            out, parts = run([_cropped(*pair, size, region) for pair in zip(roles, given, strict=True)]), []
            mapped(lambda pixels, part, parts=parts: parts.append((pixels, part)), result, out)
            totals = totals or [_Total(*part, size, window, starts, blended) for part in parts]
            for total, (_, part) in zip(totals, parts, strict=True):
                total.add(part, top, left)
    left_to_give = iter(totals)
    return mapped(lambda pixels, part: next(left_to_give).whole(), result, out)


class InWindows:
    """Takes the place of a module's `forward`: in training mode the module's own, else that one in windows.

    Copies and pickles take it along; replicas of nn.DataParallel, which share their attributes with the original, would run the
    original.

    Args:
        given: what the forward's arguments are, by name. result: what it returns.
    """

    def __init__(self, module: nn.Module, given: Mapping[str, Role], result: Role, window: Size, blended: bool) -> None:
        self.__setstate__((module, given, result, window, blended))

    def __call__(self, *args: object, **kwargs: object) -> object:
        forward, name = type(self.module).forward, type(self.module).__name__
        if self.module.training:
            return forward(self.module, *args, **kwargs)
        if tracing():
            raise ValueError(NOT_EXPORTED.format(name))
        words, count = [*argument_names(self.module, len(args)), *kwargs], len(args)
        values = [*args, *kwargs.values()]
        for word, value in zip(words, values, strict=True):
            if word not in self.given and isinstance(value, Tensor):
                raise ValueError(f"{name} runs in windows, and is given {word}, which it was not when it was converted")

        def run(values: Sequence) -> object:
            return forward(self.module, *values[:count], **dict(zip(words[count:], values[count:], strict=True)))

        return in_windows(run, values, [*map(self.given.get, words)], self.result, self.window, blended=self.blended)

    def extra_repr(self) -> str:
        """In the module's place: so that a printed net shows it."""
        shown = f"TLC: in windows of {self.window[0]}x{self.window[1]}{', blended' if self.blended else ''}"
        return ", ".join(filter(None, (type(self.module).extra_repr(self.module), shown)))

    @property
    def __code__(self):  # torch.export asks every forward for its source line
        return type(self.module).forward.__code__

    def __getstate__(self) -> tuple:
        return self.module, self.given, self.result, self.window, self.blended

    def __setstate__(self, state: tuple) -> None:
        self.module, self.given, self.result, self.window, self.blended = state
        parameters = list(inspect.signature(type(self.module).forward).parameters.values())[1:]
        self.__signature__ = inspect.Signature(parameters)


def argument_names(module: nn.Module, count: int) -> list[str]:
    """Of a forward's first arguments; `*0`, `*1` and so on of those that it collects."""
    parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:count]
    return names + [f"*{i}" for i in range(count - len(names))]


class _Total:
    """A map that is put together of windows.

    Args:
        part: what the operation makes of a window.
        size, window: of the maps that it is given. starts: first rows, and first columns, of the windows.
    """

    def __init__(
        self, pixels: Pixels, part: Tensor, size: Size, window: Size, starts: Sequence[list[int]], blended: bool
    ) -> None:
        self.pixels, self.window = pixels, _times(window, pixels.scale)
        part = self._map(part)
        kind = torch.promote_types(part.dtype, torch.float32)
        kind = kind.to_real() if kind.is_complex else kind
        self.shares = []  # for rows and columns, by a window's first one, what the window counts for at each of them
        for side, first in enumerate(starts):
            shares = _shares(first, window[side], pixels.scale[side], blended, kind)
            self.shares.append({start: share.to(part.device) for start, share in zip(first, shares, strict=True)})
        shape, self.dims = [*part.shape], (*pixels.dims, pixels.dims[0] + 1)[:2]
        for dim, length in zip(self.dims, _times(size, pixels.scale), strict=True):
            shape[dim] = length
        order, back = _order(part)
        self.out = part.new_zeros([shape[dim] for dim in order]).permute(back)

    def add(self, part: Tensor, top: int, left: int) -> None:
        part, place, share = self._map(part), [slice(None)] * self.out.ndim, 1
        for side, (dim, start) in enumerate(zip(self.dims, (top, left), strict=True)):
            first = start * self.pixels.scale[side]
            place[dim] = slice(first, first + self.window[side])
            share = share * self.shares[side][start].view(-1, *[1] * (part.ndim - 1 - dim))
        self.out[tuple(place)].addcmul_(part, share.to(part.dtype))

    def whole(self) -> Tensor:
        return self.out if len(self.pixels.dims) == 2 else self.out.flatten(*self.dims)

    def _map(self, part: Tensor) -> Tensor:
        """With rows and columns.

        Raises:
            ValueError: it has others than the window.
        """
        dims, (rows, columns) = self.pixels.dims, self.window
        wanted = (rows, columns) if len(dims) == 2 else (rows * columns,)
        if tuple(part.shape[dim] for dim in dims) != wanted:
            shown = "x".join(map(str, wanted))
            raise ValueError(f"what runs in a window of {shown} pixels gives {tuple(part.shape)}: it cannot run in windows")
        return part if len(dims) == 2 else part.unflatten(dims[0], self.window)


def _order(x: Tensor) -> tuple[list[int], list[int]]:
    """Its dimensions as they are in memory, and the way back: what is channels_last stays so."""
    order = sorted(range(x.ndim), key=x.stride, reverse=True)
    return order, [order.index(dim) for dim in range(x.ndim)]


def _copy(x: Tensor) -> Tensor:
    order, back = _order(x)
    return x.permute(order).clone(memory_format=torch.contiguous_format).permute(back)


def _shares(starts: list[int], window: int, scale: int, blended: bool, dtype: torch.dtype) -> list[Tensor]:
    """For each window along one side of a map, what it counts for at each of its positions, (window * scale,); together one."""
    starts, window = [start * scale for start in starts], window * scale
    if not blended:
        counts = torch.zeros(starts[-1] + window, dtype=dtype)
        for start in starts:
            counts[start : start + window] += 1
        return [1 / counts[start : start + window] for start in starts]
    shares, offsets = [], torch.arange(window, dtype=dtype) - (window - 1) / 2  # from the centre
    for i, start in enumerate(starts):
        share = torch.ones(window, dtype=dtype)
        if i > 0:
            share = torch.minimum(share, 1 + offsets / (start - starts[i - 1]))
        if i + 1 < len(starts):
            share = torch.minimum(share, 1 - offsets / (starts[i + 1] - start))
        shares.append(share.clamp(min=0))
    return shares


def _times(size: Size, scale: Size) -> Size:
    return size[0] * scale[0], size[1] * scale[1]


def _size(given: Sequence, roles: Sequence[Role]) -> Size:
    """Rows and columns of the maps, by one of them, or by numbers."""
    found: dict[tuple[int, ...], int] = {}

    def look(role: Role, value: object) -> None:
        if isinstance(role, Extent):
            found[role.sides] = value
        elif isinstance(role, Pixels) and isinstance(value, Tensor) and len(role.dims) == 2:
            found.update({(side,): value.shape[dim] for side, dim in enumerate(role.dims)})

    for pair in zip(roles, given, strict=True):
        mapped(look, *pair)
    return found[(0,)], found[(1,)]


def _cropped(role: Role, value: object, size: Size, region: Region) -> object:
    """The part of an argument that belongs to a window."""
    lengths = [part.stop - part.start for part in region]

    def crop(role: Role, x: object) -> object:
        if isinstance(role, Extent):
            return lengths[0] * lengths[1] if len(role.sides) == 2 else lengths[role.sides[0]]
        if not isinstance(role, Pixels) or not isinstance(x, Tensor):
            return x
        dims = (*role.dims, role.dims[0] + 1)[:2]
        x = x if len(role.dims) == 2 else x.unflatten(role.dims[0], size)
        for dim, part, length in zip(dims, region, lengths, strict=True):
            x = x.narrow(dim, part.start, length)
        x = _copy(x)  # which `view` takes, and which may be changed in place
        return x if len(role.dims) == 2 else x.flatten(*dims)

    return mapped(crop, role, value)
