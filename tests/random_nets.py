"""Random small nets for hypothesis: a description of what a net does and how it is written, the net, and its local form.

The local form is defined here, by this file's own arithmetic: each statistic is taken of the window around each position, cut
out of its map, and goes to the pixels of the same place in the image. Where a statistic has no such place there is none.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

C, TRAIN, BASE, SIZE = 4, (16, 16), (10, 8), (16, 24)


class Nowhere(Exception):
    """There is no local form."""


class Map(NamedTuple):
    """Rows and columns of each pixel's place in the image, (1, 2, H, W), nan where it has none; the map in training."""

    x: Tensor
    grid: Tensor
    trained: Tensor

    def moved(self, moves: Sequence["Move"]) -> "Map":
        x, grid, trained = self
        for move in moves:
            x, trained = move.run(x), move.run(trained)
            if move.mixes:
                grid = torch.full((1, 2, *x.shape[2:]), math.nan, dtype=x.dtype)
            else:
                grid = move.places(grid) if move.places else move.run(grid)
        return Map(x, grid, trained)


def grown(grid: Tensor) -> Tensor:
    """The places of pixels that are twice as fine."""
    for dim in (2, 3):
        step = grid.narrow(dim, 1, 1) - grid.narrow(dim, 0, 1)
        offset = torch.tensor([-0.25, 0.25]).repeat(grid.shape[dim]).view(-1, *[1] * (3 - dim))
        grid = grid.repeat_interleave(2, dim) + offset * step
    return grid


class Move(NamedTuple):
    """What brings pixels elsewhere.

    Attributes:
        back: its inverse. places: what it makes of pixels' places, where that is something else than of their values.
        mixes: what comes out is no map of pixels.
    """

    name: str
    run: Callable[[Tensor], Tensor]
    back: str = ""
    mixes: bool = False
    places: Callable[[Tensor], Tensor] | None = None


def around(left: int, right: int, top: int, bottom: int) -> Callable[[Tensor], Tensor]:
    """The places of pixels that are added around a map, as far from its borders as they are."""

    def places(grid: Tensor) -> Tensor:
        for dim, before, after in ((3, left, right), (2, top, bottom)):
            size = grid.shape[dim]
            index = torch.arange(-before, size + after)
            inside = index.clamp(0, size - 1)
            step = grid.narrow(dim, 1, 1) - grid.narrow(dim, 0, 1)
            grid = grid.index_select(dim, inside) + (index - inside).view(-1, *[1] * (3 - dim)) * step
        return grid

    return places


MOVES = {
    move.name: move
    for move in (
        Move("flip", lambda x: x.flip(-1), "flip"),
        Move("flip rows", lambda x: x.flip(2), "flip rows"),
        Move("roll", lambda x: x.roll(3, 2), "roll back"),
        Move("roll back", lambda x: x.roll(-3, (2,)), "roll"),
        Move("roll both", lambda x: torch.roll(x, (-2, 5), (2, 3)), "roll both back"),
        Move("roll both back", lambda x: torch.roll(x, (2, -5), (2, 3)), "roll both"),
        Move("transpose", lambda x: x.mT, "transpose"),
        Move("turn", lambda x: x.rot90(1, (2, 3)), "turn back"),
        Move("turn back", lambda x: x.rot90(-1, (2, 3)), "turn"),
        Move("turn twice", lambda x: x.rot90(2, (2, 3)), "turn twice"),
        Move("cut", lambda x: torch.cat([x[..., 4:], x[..., :4]], -1), "cut back"),
        Move("cut back", lambda x: torch.cat([x[..., -4:], x[..., :-4]], -1), "cut"),
        Move("cut and joined", lambda x: torch.cat([x[..., :5], x[..., 5:]], -1)),
        Move("shift", lambda x: F.pad(x, (2, -2, 0, 0)), "shift back", places=around(2, -2, 0, 0)),
        Move("shift back", lambda x: F.pad(x, (-2, 2, 0, 0)), "shift", places=around(-2, 2, 0, 0)),
        Move("pad", lambda x: F.pad(x, (2, 2, 2, 2)), "crop", places=around(2, 2, 2, 2)),
        Move("crop", lambda x: x[..., 2:-2, 2:-2], "pad"),
        Move("mirror the border", lambda x: F.pad(x, (2, 2, 2, 2), mode="reflect"), "crop", places=around(2, 2, 2, 2)),
        Move("every second row", lambda x: x[..., ::2, :]),
        Move("every second column", lambda x: x[..., 1::2]),
        Move("shrink", lambda x: F.avg_pool2d(x, 2), "grow"),
        Move("grow", lambda x: F.interpolate(x, scale_factor=2), places=grown),
        Move("channels last", lambda x: (1 * x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        Move("shuffle", lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 2), 2)),
        Move("windows", lambda x: F.fold(F.unfold(x, 4, stride=4), x.shape[2:], 4, stride=4)),
        Move("tokens", lambda x: x.flatten(2).transpose(1, 2).transpose(1, 2).reshape(x.shape)),
        Move("samples", lambda x: torch.cat([x, x.flip(-1)]).chunk(2)[0]),
        Move("items", lambda x: _by_items(torch.zeros_like(x), x)),
        Move("spectrum", lambda x: torch.fft.fft2(x).abs(), mixes=True),
        Move("spectra and back", lambda x: torch.fft.ifft2(2 * torch.fft.fft2(x)).real / 2, places=lambda grid: grid),
        Move("sort", lambda x: x.sort(-1).values, mixes=True),
    )
}


def _by_items(y: Tensor, x: Tensor) -> Tensor:
    y[:, :2], y[:, 2:] = x[:, :2], x[:, 2:]
    return y


def windows(x: Tensor, trained: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """All windows inside a map, (..., rows, columns, k1, k2), and which of these is that around each row, each column."""
    indices = []
    for dim, base, train in zip((2, 3), BASE, TRAIN, strict=True):
        size = x.shape[dim]
        window = min(max(1, trained.shape[dim] * base // train), size)
        count = size - window + 1
        x = x.unfold(dim, window, 1)
        indices.append((torch.arange(size) - (size - count) // 2).clamp(0, count - 1))
    return x, tuple(indices)


def local(function: Callable[[Tensor], Tensor], maps: Sequence[Map]) -> Tensor:
    """A function (N, C, ..., k1, k2) of maps' pixels to (N, C, ...), of the window around each position."""
    found = [windows(y.x, y.trained) for y in maps]
    rows, columns = found[0][1]
    return function(*(y for y, _ in found))[:, :, rows][..., columns]


def brought(field: Tensor, grid: Tensor, to: Tensor) -> Tensor:
    """A field whose positions are at `grid`, where the pixels at `to` are."""
    if field.shape[2:] == (1, 1) or (grid.shape == to.shape and torch.equal(grid.nan_to_num(), to.nan_to_num())):
        return field
    places = [tuple(place) for place in grid.flatten(2)[0].T.tolist()]
    index = {place: i for i, place in enumerate(places)}
    wanted = [tuple(place) for place in to.flatten(2)[0].T.tolist()]
    if len(index) < len(places) or not all(place in index for place in wanted):
        raise Nowhere
    picked = [index[place] for place in wanted]
    return field.flatten(2)[..., picked].unflatten(2, to.shape[2:])


# Statistics ------------------------------------------------------------------------------------------------------------

LAST = (-2, -1)
DEFINED: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda y: y.mean(LAST),
    "sum": lambda y: y.sum(LAST) / 100,
    "max": lambda y: y.amax(LAST),
    "min": lambda y: y.amin(LAST),
    "var": lambda y: y.var(LAST),
    "std": lambda y: y.std(LAST, correction=0),
    "norm": lambda y: y.square().sum(LAST).sqrt() / 10,
    "ratio": lambda y: (y * y).sum(LAST) / y.abs().sum(LAST),
    "both": lambda y: y.mean(LAST) + y.amax(LAST),
}
DIMS = (2, 3)
# How they are written; the result has four dimensions or two.
WRITTEN: dict[str, tuple[Callable[["Part", Tensor], Tensor], ...]] = {
    "mean": (
        lambda p, x: p.pool(x),
        lambda p, x: p.pool(x).flatten(1),
        lambda p, x: p.pool(x)[:, :, 0, 0],
        lambda p, x: F.adaptive_avg_pool2d(x, 1),
        lambda p, x: F.avg_pool2d(x, x.shape[2:]),
        lambda p, x: F.avg_pool2d(x, kernel_size=(x.size(2), x.size(3))),
        lambda p, x: x.mean(DIMS, keepdim=True),
        lambda p, x: x.mean([-1, -2]),
        lambda p, x: x.mean(-1).mean(-1),
        lambda p, x: x.mean((-1,), keepdim=True).mean(2, keepdim=True),
        lambda p, x: torch.mean(x, dim=DIMS),
        lambda p, x: torch.mean(x, DIMS, True, dtype=x.dtype),
        lambda p, x: x.flatten(2).mean(-1),
        lambda p, x: x.view(*x.shape[:2], -1).mean(2, keepdim=True).unsqueeze(-1),
        lambda p, x: x.sum(DIMS) / (x.shape[2] * x.shape[3]),
        lambda p, x: x.flatten(2).sum(-1) / x[0, 0].numel(),
        lambda p, x: x.permute(0, 2, 3, 1).mean((1, 2)),
        lambda p, x: _filled(x.mean(DIMS, keepdim=True)),
    ),
    "sum": (lambda p, x: x.sum(DIMS) / 100, lambda p, x: 0.01 * x.sum((-2, -1), keepdim=True)),
    "max": (
        lambda p, x: p.largest(x),
        lambda p, x: x.amax(DIMS),
        lambda p, x: F.adaptive_max_pool2d(x, (1, 1)),
        lambda p, x: F.max_pool2d(x, x.shape[2:]),
        lambda p, x: x.flatten(2).amax(-1),
        lambda p, x: x.flatten(2).max(-1)[0],
        lambda p, x: x.max(3)[0].max(2).values,
    ),
    "min": (lambda p, x: x.amin(DIMS), lambda p, x: -(-x).amax(DIMS), lambda p, x: x.flatten(2).min(-1)[0]),
    "var": (lambda p, x: x.var(DIMS), lambda p, x: torch.var(x, DIMS, keepdim=True), lambda p, x: x.flatten(2).var(-1)),
    "std": (
        lambda p, x: x.std(DIMS, correction=0),
        lambda p, x: x.flatten(2).std(-1, unbiased=False),
        lambda p, x: (x - x.mean(DIMS, keepdim=True)).square().mean(DIMS).sqrt(),
    ),
    "norm": (
        lambda p, x: x.norm(dim=DIMS) / 10,
        lambda p, x: torch.linalg.vector_norm(x, dim=DIMS, keepdim=True) * 0.1,
        lambda p, x: (x * x).sum(DIMS).sqrt() / 10,
    ),
    "ratio": (lambda p, x: (x * x).sum(DIMS) / x.abs().sum(DIMS), lambda p, x: (x * x).mean(DIMS) / x.abs().mean(DIMS)),
    "both": (
        lambda p, x: x.mean(DIMS) + x.amax(DIMS),
        lambda p, x: p.pool(x) + p.largest(x),
        lambda p, x: torch.stack([x.mean(DIMS), x.amax(DIMS)]).sum(0),
        lambda p, x: torch.cat([x.mean(DIMS), x.amax(DIMS)], 1).unflatten(1, (2, C)).sum(1),
    ),
}


def _filled(mean: Tensor) -> Tensor:
    made = torch.zeros_like(mean)
    made[:] = mean
    return made


# What is made of a vector; per position where it is a field, its channels last.
VECTORS: dict[str, Callable[["Part", Tensor], Tensor]] = {
    "as it is": lambda p, v: v,
    "linear": lambda p, v: p.linear(v),
    "bottleneck": lambda p, v: p.linear(p.linear(v).relu()),
    "sigmoid": lambda p, v: v.sigmoid(),
    "scaled": lambda p, v: 1.5 * v - 0.2,
    "softmax": lambda p, v: v.softmax(-1),
    "normed": lambda p, v: F.layer_norm(v, (C,)),
    "halves": lambda p, v: torch.cat([v[..., 2:], v[..., :2]], -1),
    "sample less the others": lambda p, v: v - 0.5 * v.mean(0, keepdim=True),
}
# How a vector (N, C, 1, 1), or a field, meets a map.
MERGES: dict[str, Callable[["Part", Tensor, Tensor], Tensor]] = {
    "times": lambda p, x, v: x * v,
    "plus": lambda p, x, v: v + x,
    "less": lambda p, x, v: x - v,
    "over": lambda p, x, v: x / (1 + v * v),
    "modulated": lambda p, x, v: x * (1 + v) + v.tanh(),
    "where larger": lambda p, x, v: torch.where(x > v, x, 0.5 * x),
    "the larger": lambda p, x, v: torch.maximum(x, v),
    "clamped": lambda p, x, v: torch.clamp(x, max=v),
    "residual": lambda p, x, v: x + x * v,
    "mixed": lambda p, x, v: torch.lerp(x, v.expand_as(x), 0.3),
    "selected": lambda p, x, v: (torch.stack([x, 2 * x], 1) * torch.stack([v, -v], 1).softmax(1)).sum(1),
}
# The same, written otherwise.
ALIKE: dict[str, tuple[str, Callable[["Part", Tensor, Tensor], Tensor]]] = {
    "expanded": ("times", lambda p, x, v: x * v.expand_as(x)),
    "expanded by sizes": ("times", lambda p, x, v: x * v.expand(-1, -1, x.shape[2], x.shape[3])),
    "enlarged": ("times", lambda p, x, v: x * F.interpolate(v, size=x.shape[2:])),
    "in place": ("times", lambda p, x, v: (1 * x).mul_(v)),
    "augmented": ("times", lambda p, x, v: _augmented(x, v)),
    "by items": ("times", lambda p, x, v: _items(x, v)),
    "by parts": ("times", lambda p, x, v: torch.cat([a * b for a, b in zip(x.chunk(2, 1), v.chunk(2, 1), strict=True)], 1)),
    "flat": ("times", lambda p, x, v: (x.flatten(2) * v.flatten(2)).view(x.shape)),
    "tokens": ("times", lambda p, x, v: (x.flatten(2).mT * v.flatten(2).mT).mT.reshape(x.shape)),
    "channels last": ("times", lambda p, x, v: (x.permute(0, 2, 3, 1) * v.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
    "by a matrix": ("times", lambda p, x, v: (torch.diag_embed(v.flatten(1)) @ x.flatten(2)).view(x.shape)),
    "concatenated": ("plus", lambda p, x, v: torch.cat([x, v.expand(-1, -1, *x.shape[2:])], 1).unflatten(1, (2, C)).sum(1)),
    "masked": ("where larger", lambda p, x, v: _masked(x, v)),
    "heads": ("times", lambda p, x, v: (x.unflatten(1, (2, 2)) * v.unflatten(1, (2, 2))).flatten(1, 2)),
}


def _augmented(x: Tensor, v: Tensor) -> Tensor:
    x = 1 * x
    x *= v
    return x


def _items(x: Tensor, v: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :2] = x[:, :2] * v[:, :2]
    y[:, 2:] = x[:, 2:] * v[:, 2:]
    return y


def _masked(x: Tensor, v: Tensor) -> Tensor:
    return x.masked_fill(x <= v, 0) + (x * 0.5).masked_fill(x > v, 0)


# Steps of a net --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gate:
    """A statistic of a map, what is made of it, and the map that it meets.

    Attributes:
        place: which part of it is a module of its own, and what that returns.
        spoilt: what makes it no statistic of a window.
    """

    kind: str
    written: int
    vectors: tuple[str, ...]
    merge: str
    source: tuple[Move, ...]
    target: tuple[Move, ...]
    after: tuple[Move, ...]
    place: str
    spoilt: str = ""

    def run(self, p: "Part", x: Tensor) -> Tensor:
        t, v = p.inner(x) if self.place == "map and vector" else (moved(x, self.target), None)
        if self.place == "vector":
            v = p.inner(moved(x, self.source))
        elif self.place == "dict":
            found = p.inner({"image": x})
            t, v = found["map"], found["vector"]
        elif self.place == "list":
            (t, v) = p.inner([t, moved(x, self.source)])
        elif v is None:
            v = self.vector(p, moved(x, self.source))
        y = (ALIKE[self.merge][1] if self.merge in ALIKE else MERGES[self.merge])(p, t, v)
        y = y / (t.shape[2] * t.shape[3]) if self.spoilt == "scaled after" else y
        return moved(y, self.after)

    def inside(self, p: "Part", x: object) -> object:
        """What the module inside makes of what it is given."""
        if self.place == "vector":
            return self.vector(p, x)
        if self.place == "list":
            return [x[0], self.vector(p, x[1])]
        x = x["image"] if self.place == "dict" else x
        t, v = moved(x, self.target), self.vector(p, moved(x, self.source))
        return (t, v) if self.place == "map and vector" else {"map": t, "vector": v}

    def vector(self, p: "Part", x: Tensor) -> Tensor:
        x = {"over the maximum": lambda: x / x.abs().max(), "cumulated": lambda: x.cumsum(-1)}.get(self.spoilt, lambda: x)()
        v = WRITTEN[self.kind][self.written](p, x)
        v = v * (x.shape[2] * x.shape[3]) if self.spoilt == "scaled" else v
        flat = v.ndim == 2
        for name in self.vectors:
            if name == "linear" and not flat:
                v = p.conv(v)
            elif name == "softmax" and not flat:
                v = v.softmax(1)
            else:
                v = VECTORS[name](p, v if flat else v.flatten(1)).view(v.shape)
        return v[..., None, None] if flat else v

    def define(self, p: "Part", y: Map, in_windows: bool) -> Map:
        """in_windows: a product with a matrix is the average of the products in windows, as attention is."""
        source, target = y.moved(self.source), y.moved(self.target)
        if self.spoilt or source.x.is_complex():
            raise Nowhere
        if source.grid.isnan().all():
            raise Nowhere
        if self.merge == "by a matrix" and in_windows:
            return self._attended(p, source, target).moved(self.after)
        field = self._made_of(p, local(DEFINED[self.kind], [source]))
        field = brought(field, source.grid, target.grid)
        merge = MERGES[ALIKE[self.merge][0] if self.merge in ALIKE else self.merge]
        return target._replace(x=merge(p, target.x, field)).moved(self.after)

    def _made_of(self, p: "Part", field: Tensor) -> Tensor:
        for name in self.vectors:
            field = VECTORS[name](p, field.movedim(1, -1)).movedim(-1, 1)
        return field

    def _attended(self, p: "Part", source: Map, target: Map) -> Map:
        if source.grid.shape != target.grid.shape or not source.grid.equal(target.grid):
            raise Nowhere

        def scaled(crop: Tensor, x: Tensor) -> Tensor:
            return x * self._made_of(p, DEFINED[self.kind](crop)[..., None, None])

        return target._replace(x=averaged(scaled, target, (source.x, target.x)))


@dataclass(frozen=True)
class Norm:
    written: int
    before: tuple[Move, ...]
    after: tuple[Move, ...]
    place: str = "inline"

    def run(self, p: "Part", x: Tensor) -> Tensor:
        return moved(NORMS[self.written][1](p, moved(x, self.before)), self.after)

    def define(self, p: "Part", y: Map) -> Map:
        y, (groups, _) = y.moved(self.before), NORMS[self.written]
        if y.grid.isnan().all():
            raise Nowhere

        def normed(crops: Tensor) -> tuple[Tensor, Tensor]:
            crops = crops.unflatten(1, (groups, C // groups))
            dims = (2, -2, -1)
            mean, variance = crops.mean(dims, keepdim=True), crops.var(dims, correction=0, keepdim=True)
            return torch.cat(
                [z.expand(-1, -1, C // groups, -1, -1, 1, 1).flatten(1, 2)[..., 0, 0] for z in (mean, variance)], 1
            )

        mean, variance = local(normed, [y]).chunk(2, 1)
        return y._replace(x=(y.x - mean) / (variance + 1e-5).sqrt()).moved(self.after)


def _by_hand(x: Tensor) -> Tensor:
    mean = x.mean(DIMS, keepdim=True)
    return (x - mean) / ((x - mean).pow(2).mean(DIMS, keepdim=True) + 1e-5).sqrt()


NORMS: tuple[tuple[int, Callable[["Part", Tensor], Tensor]], ...] = (
    (C, lambda p, x: p.norm(x)),
    (2, lambda p, x: p.groups(x)),
    (C, lambda p, x: F.instance_norm(x)),
    (2, lambda p, x: F.group_norm(x, 2)),
    (C, lambda p, x: _by_hand(x)),
    (C, lambda p, x: (x - x.mean(DIMS, True)) / (x.var(DIMS, unbiased=False, keepdim=True) + 1e-5).sqrt()),
    (C, lambda p, x: (x - x.mean(DIMS, True)) * torch.rsqrt((x * x).mean(DIMS, True) - x.mean(DIMS, True) ** 2 + 1e-5)),
)


@dataclass(frozen=True)
class Attention:
    """Between channels."""

    heads: int
    written: int
    moves: tuple[Move, ...]
    place: str = "inline"

    def run(self, p: "Part", x: Tensor) -> Tensor:
        x = moved(x, self.moves)
        return x + self.attend(*p.qkv(x).chunk(3, 1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape = q.shape
        q, k, v = (y.reshape(shape[0], self.heads, -1, shape[2] * shape[3]) for y in (q, k, v))
        if self.written:
            q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
        else:
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        return ((q @ k.transpose(-2, -1) * 0.7).softmax(-1) @ v).reshape(shape)

    def define(self, p: "Part", y: Map) -> Map:
        y = y.moved(self.moves)
        if y.grid.isnan().all():
            raise Nowhere
        return y._replace(x=y.x + averaged(replace(self, written=0).attend, y, p.qkv(y.x).chunk(3, 1)))


def averaged(function: Callable[..., Tensor], y: Map, maps: Sequence[Tensor]) -> Tensor:
    """What a function makes of the windows of maps as large as `y`, on average."""
    window = [max(1, y.trained.shape[d] * b // t) for d, b, t in zip((2, 3), BASE, TRAIN, strict=True)]
    total, count = torch.zeros_like(y.x), torch.zeros_like(y.x)
    for top in starts(y.x.shape[2], window[0]):
        for left in starts(y.x.shape[3], window[1]):
            place = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            total[place] += function(*(z[place] for z in maps))
            count[place] += 1
    return total / count


def starts(size: int, window: int) -> list[int]:
    """Of the published windows: as few as cover the side, spread evenly, the last at its end."""
    if window >= size:
        return [0]
    step = math.ceil((size - window) / ((size - 1) // window) - 1e-8)
    found = [*range(0, size - window, step)]
    return [*found, size - window]


@dataclass(frozen=True)
class Plain:
    """Nothing that has a local form; `operation`: what is global and stays so."""

    name: str
    place: str = "inline"

    @property
    def operation(self) -> bool:
        return self.name in GLOBAL

    def run(self, p: "Part", x: Tensor) -> Tensor:
        return {**LOCAL, **GLOBAL}[self.name](p, x)


LOCAL: dict[str, Callable[["Part", Tensor], Tensor]] = {
    "convolution": lambda p, x: p.wide(x),
    "pointwise": lambda p, x: F.gelu(p.conv(x)),
    "channels": lambda p, x: x * x.mean(1, keepdim=True).sigmoid(),
}
GLOBAL: dict[str, Callable[["Part", Tensor], Tensor]] = {
    "median": lambda p, x: x + x.flatten(2).median(2).values[..., None, None],
    "pixels": lambda p, x: x + (x.flatten(2).mT @ x.flatten(2) / C).softmax(-1).mean(1).view(x.shape[0], 1, *x.shape[2:]),
    "grid": lambda p, x: x * F.interpolate(F.adaptive_avg_pool2d(x, 2), x.shape[2:]),
}


def moved(x: Tensor, moves: Sequence[Move]) -> Tensor:
    for move in moves:
        x = move.run(x)
    return x


Step = Gate | Norm | Attention | Plain


# Nets ------------------------------------------------------------------------------------------------------------------


class Part(nn.Module):
    """The layers of a step, and its forward where it is a module of its own."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step
        self.pool, self.largest = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)
        self.linear = nn.Linear(C, C)
        self.conv = nn.Conv2d(C, C, 1)
        with torch.no_grad():  # the same, so that the local form has one
            self.conv.weight.copy_(self.linear.weight[..., None, None])
            self.conv.bias.copy_(self.linear.bias)
        self.wide, self.qkv = nn.Conv2d(C, C, 3, padding=1), nn.Conv2d(C, 3 * C, 1)
        self.norm, self.groups = nn.InstanceNorm2d(C), nn.GroupNorm(2, C)
        if step.place in ("vector", "map and vector", "list", "dict"):
            self.inner = Inner(step)

    def forward(self, x: Tensor) -> Tensor:
        return self.step.run(self, x)


class Inner(Part):
    def __init__(self, step: Step) -> None:
        super().__init__(replace(step, place="inline"))
        self.step = step

    def forward(self, x: object) -> object:
        return self.step.inside(self, x)


@dataclass(frozen=True)
class Description:
    """Steps one after the other; which of them a step of the net is, since some run twice; and how each is called."""

    steps: tuple[Step, ...]
    order: tuple[int, ...]
    residual: bool

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return Net(self).double().eval()

    def define(self, net: nn.Module, x: Tensor, stays: set[int], in_windows: bool = False) -> Tensor:
        """The local form but for the steps that are to stay; `in_windows` as in Gate."""
        rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in x.shape[2:]), indexing="ij")
        y = Map(x, torch.stack([rows, columns])[None], torch.zeros(1, C, *TRAIN, dtype=x.dtype))
        for index in self.order:
            step, part, before = self.steps[index], net.parts[index], y
            inner = getattr(part, "inner", part)
            if isinstance(step, Plain):
                y = y._replace(x=step.run(part, y.x))
            elif index in stays:
                moves = step.target + step.after if isinstance(step, Gate) else ()
                moves = step.before + step.after if isinstance(step, Norm) else moves
                moves = step.moves if isinstance(step, Attention) else moves
                y = y.moved(moves)._replace(x=step.run(part, y.x))
            else:
                y = step.define(inner, y, in_windows) if isinstance(step, Gate) else step.define(inner, y)
            if self.residual and y.x.shape == before.x.shape:
                y = y._replace(x=y.x + before.x)
        return y.x


class Net(nn.Module):
    def __init__(self, described: Description) -> None:
        super().__init__()
        self.described = described
        self.parts = nn.ModuleList(map(Part, described.steps))

    def forward(self, x: Tensor) -> Tensor:
        for index in self.described.order:
            part, before = self.parts[index], x
            x = part.step.run(part, x) if part.step.place == "inline" else part(x)
            if self.described.residual and x.shape == before.shape:
                x = x + before
        return x


# Strategies ------------------------------------------------------------------------------------------------------------

_HARMLESS = (
    "channels last",
    "shuffle",
    "windows",
    "tokens",
    "cut and joined",
    "samples",
    "items",
    "spectra and back",
    "shrink",
)


def _moves(most: int = 2) -> st.SearchStrategy[tuple[Move, ...]]:
    """Few; often back again."""
    some = st.lists(st.sampled_from([*MOVES.values()]), max_size=most).map(tuple)
    harmless = st.lists(st.sampled_from([MOVES[name] for name in _HARMLESS]), max_size=1).map(tuple)
    there_and_back = some.map(lambda moves: moves + inverse(moves))
    return st.one_of(st.just(()), st.just(()), st.just(()), harmless, harmless, some, there_and_back)


def inverse(moves: Sequence[Move]) -> tuple[Move, ...]:
    return tuple(MOVES[move.back] for move in reversed(moves) if move.back)


@st.composite
def gates(draw: st.DrawFn) -> Gate:
    kind = draw(st.sampled_from([*WRITTEN]))
    written = draw(st.integers(0, len(WRITTEN[kind]) - 1))
    vectors = tuple(draw(st.lists(st.sampled_from([*VECTORS]), max_size=2)))
    merge = draw(st.sampled_from([*MERGES, *ALIKE]))
    target = draw(_moves())
    source = target if draw(st.integers(0, 3)) else draw(_moves())
    after = draw(st.sampled_from([(), inverse(target)]))
    place = draw(st.sampled_from(["inline", "child", "child", "vector", "map and vector", "list", "dict"]))
    spoilt = draw(st.sampled_from([""] * 16 + ["scaled", "scaled after", "over the maximum", "cumulated"]))
    return Gate(kind, written, vectors, merge, source, target, after, place, spoilt)


@st.composite
def norms(draw: st.DrawFn) -> Norm:
    before = draw(_moves())
    after = draw(st.sampled_from([(), inverse(before)]))
    return Norm(draw(st.integers(0, len(NORMS) - 1)), before, after, draw(st.sampled_from(["inline", "child"])))


_PLACES = st.sampled_from(["inline", "child"])
_STEPS = {
    "gate": gates(),
    "norm": norms(),
    "attention": st.builds(Attention, st.sampled_from([1, 2]), st.integers(0, 1), _moves(1), _PLACES),
    "plain": st.builds(Plain, st.sampled_from([*LOCAL]), _PLACES),
    "global": st.builds(Plain, st.sampled_from([*GLOBAL]), st.just("child")),
}
_KINDS = st.sampled_from(["gate"] * 6 + ["norm"] * 2 + ["attention", "plain", "plain", "global"])


@st.composite
def descriptions(draw: st.DrawFn) -> Description:
    kinds = draw(st.lists(_KINDS, min_size=1, max_size=3))
    steps = tuple(draw(_STEPS[kind]) for kind in kinds)
    order = tuple(range(len(steps))) + draw(st.sampled_from([(), (), (), (0,)]))
    return Description(steps, order, draw(st.booleans()))


def statistics(described: Description) -> list[int]:
    """The steps that have a local form, or would have."""
    return [index for index, step in enumerate(described.steps) if not isinstance(step, Plain)]
