"""The report of a conversion: as data, and printed as a table."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from basicsr.tlc.local import Size
from basicsr.tlc.local.patches import Sampler

ROOT = "(the net itself)"


@dataclass(frozen=True)
class Scale:
    """What windows are made of.

    Attributes:
        train, base: (h, w) of the training patch, and of the window at the input's resolution.
        sampler: where norms get statistics of patches from, or None for those of windows.
        blended: whether windows of channel attention are blended.
    """

    train: Size
    base: Size
    fast_imp: bool
    sampler: Sampler | None = None
    blended: bool = False

    def window(self, size: Size) -> Size:
        """The window on a map that is `size` when the net sees a training patch."""
        return tuple(max(1, s * b // t) for s, b, t in zip(size, self.base, self.train, strict=True))

    def max_stride(self, size: Size) -> Size | None:
        """The caps of the published approximation's strides; None for the exact operation."""
        if not self.fast_imp:
            return None
        return tuple(max(1, 5 * s // t) for s, t in zip(size, self.train, strict=True))

    def note(self, *, fast: bool, blends: bool) -> str:
        """How the settings apply to an operation that heeds the strides' caps, or blends its windows."""
        notes = ("blended", self.blended and blends), ("fast_imp does not apply: exact", self.fast_imp and not fast)
        return "; ".join(text for text, applies in notes if applies)


@dataclass(frozen=True)
class Converted:
    """A global operation that became local.

    Attributes:
        path: of the module; of the module whose forward was rewritten, where it was no module of its own.
        before, after: what it was and is: classes, or `Class: operation` for an operation in a forward.
        size, window: of its map in training, and of the local operation.
        note: that windows are blended, and what of the settings does not apply.
    """

    path: str
    before: str
    after: str
    size: Size
    window: Size
    note: str = ""


@dataclass(frozen=True)
class LeftAlone:
    """A global operation that is as it was: in which module, what, on which source line (or ''), and why and what to do."""

    path: str
    operation: str
    where: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What `convert` did: as data, a row for each layer, and printed as a table, in which rows that are alike are one.

    attention: 'published' or 'blended', as it was asked for. origin: where train_size is from, in words, unless it was given.
    training: whether the net was in training mode, in which nothing is local.
    """

    train_size: Size
    base_size: Size
    fast_imp: bool
    converted: tuple[Converted, ...]
    left_alone: tuple[LeftAlone, ...]
    attention: str = "published"
    origin: str = ""
    training: bool = False

    def as_dict(self) -> dict:
        return asdict(self)

    def covers(self, size: Size) -> bool:
        """Whether the window covers an image of this (height, width), so that TLC changes nothing."""
        return all(self._covers(axis, size[axis]) for axis in (0, 1))

    def _covers(self, axis: int, length: int) -> bool:
        """Every layer's window against its map, the image padded to a multiple of the deepest layer's step."""
        train = self.train_size[axis]
        step = max((max(1, train // layer.size[axis]) for layer in self.converted), default=1)
        padded = -(-length // step) * step
        # A size that is no simple part of the patch's may be off by one from what is proportional, in the image by more.
        largest = [size + 1 if train % size and size % train else size for size in (c.size[axis] for c in self.converted)]
        return all(c.window[axis] * train >= size * padded for c, size in zip(self.converted, largest, strict=True))

    def summary(self) -> str:
        """The table's first line."""
        origin = f" ({self.origin})" if self.origin else ""
        head = f"TLC: trained on {by(self.train_size)}{origin}, window {by(self.base_size)}"
        head += ", fast_imp" if self.fast_imp else ""
        head += ", attention blended" if self.attention == "blended" else ""
        return f"{head}; {len(self.converted)} layers converted, {len(self.left_alone)} global operations left alone"

    def __str__(self) -> str:
        lines = [self.summary()]
        if not self.converted and not self.left_alone:
            lines.append("The net has no global operations, so that TLC has nothing to do: it is as it was.")
        if self.converted:
            rows = [(c.path, c.before, c.after, by(c.size), by(c.window), c.note) for c in self.converted]
            lines += _table(("layers", "was", "is", "map in training", "window", "note"), rows)
        if self.left_alone:
            rows = [(x.path, x.operation, x.where, x.reason) for x in self.left_alone]
            lines += ["", *_table(("left alone", "operation", "at", "why, and what to do"), rows)]
        if self.converted and self.training:
            lines.append("The net was in training mode, in which nothing is local: call net.eval() before it restores images.")
        return "\n".join(lines)


def by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Aligned columns. Rows that differ in their path alone, the first column, are one, with their number."""
    paths = {}
    for path, *others in rows:
        paths.setdefault(tuple(others), []).append(path)
    rows = [head, *((_listed(alike), *others) for others, alike in paths.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _listed(paths: list[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{len(paths)}: {paths[0]}, {'... ' if len(paths) > 2 else ''}{paths[-1]}"
