"""The converter: a dry run finds each layer's window, rules replace global layers by local ones, a report tells what happened.

The layers' sizes come from a run of the net at the training patch's size on PyTorch's meta device, which costs neither
arithmetic nor memory. A second one at twice that size shows which other operations are global: those whose output keeps its
shape while their input grows.
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from torch import nn

from basicsr.tlc.functional import Size
from basicsr.tlc.layers import LocalAvgPool2d, LocalInstanceNorm2d
from basicsr.tlc.probe import GlobalOp, Probe, probe


@dataclass(frozen=True)
class Site:
    """Where a rule is applied.

    Attributes:
        path: the module's name in the net.
        size: (h, w) of its input when the net sees a training patch.
        window: (k1, k2) of the local operation on that map.
        max_stride: caps of the published approximation's strides, or None for the exact operation.
    """

    path: str
    size: Size
    window: Size
    max_stride: Size | None


_ROOT = "(the net itself)"
Rule = Callable[[nn.Module, Site], "nn.Module | str"]
_RULES: dict[type[nn.Module], tuple[Rule, bool]] = {}


def rule(kind: type[nn.Module], *, fast: bool = False) -> Callable[[Rule], Rule]:
    """Register how modules of class `kind` (and of its subclasses) become local.

    The decorated function takes the module and its Site, and returns the local module, which must hold the same parameters
    under the same names, or a sentence that says why this one is left alone. `fast`: it heeds `site.max_stride`.

    >>> @rule(MyAttention)
    ... def local_attention(module, site):
    ...     return MyLocalAttention(module, window=site.window)
    """

    def register(function: Rule) -> Rule:
        if kind in _RULES:
            raise ValueError(f"there is a rule for {kind.__name__} already: {_RULES[kind][0].__name__}")
        _RULES[kind] = (function, fast)
        return function

    return register


@rule(nn.AdaptiveAvgPool2d, fast=True)
def _pool(module: nn.AdaptiveAvgPool2d, site: Site) -> nn.Module | str:
    if module.output_size not in (1, (1, 1), [1, 1]):
        return f"it keeps {module.output_size} positions, so it is no global pooling"
    return LocalAvgPool2d(site.window, site.max_stride)


@rule(nn.InstanceNorm2d, fast=True)
def _instance_norm(module: nn.InstanceNorm2d, site: Site) -> nn.Module | str:
    if module.track_running_stats:
        return "it uses running statistics at test time, which do not depend on the image"
    return LocalInstanceNorm2d(module, site.window, site.max_stride)


@dataclass(frozen=True)
class Converted:
    path: str
    before: str
    after: str
    size: Size  # of its map in training
    window: Size
    note: str = ""


@dataclass(frozen=True)
class LeftAlone:
    path: str
    operation: str
    where: str  # source file and line, or ''
    reason: str


@dataclass(frozen=True)
class Report:
    """What `convert` did: as data, and printed as a table."""

    train_size: Size
    base_size: Size
    fast_imp: bool
    converted: tuple[Converted, ...]
    left_alone: tuple[LeftAlone, ...]

    def as_dict(self) -> dict:
        return asdict(self)

    def covers(self, size: Size) -> bool:
        """Whether the window covers an image of this (height, width), so that TLC changes nothing."""
        return all(self._covers(axis, size[axis]) for axis in (0, 1))

    def _covers(self, axis: int, length: int) -> bool:
        """Every layer's window against its map, the image padded to a multiple of the deepest layer's step."""
        train = self.train_size[axis]
        step = max((train // layer.size[axis] for layer in self.converted), default=1)
        padded = -(-length // step) * step
        return all(layer.window[axis] * train >= layer.size[axis] * padded for layer in self.converted)

    def summary(self) -> str:
        """The table's first line."""
        head = f"TLC: trained on {_by(self.train_size)}, window {_by(self.base_size)}" + (", fast_imp" if self.fast_imp else "")
        return f"{head}; {len(self.converted)} layers converted, {len(self.left_alone)} global operations left alone"

    def __str__(self) -> str:
        rows = [("layer", "was", "is", "map in training", "window", "note")]
        rows += [(c.path, c.before, c.after, _by(c.size), _by(c.window), c.note) for c in self.converted]
        lines = [self.summary(), *_table(rows)]
        if self.left_alone:
            rows = [("left alone", "operation", "at", "why, and what to do")]
            rows += [(x.path, x.operation, x.where, x.reason) for x in self.left_alone]
            lines += ["", *_table(rows)]
        return "\n".join(lines)


def convert(
    net: nn.Module,
    *,
    train_size: tuple[int, int, int, int] = (1, 3, 256, 256),
    base_size: int | Size | None = None,
    fast_imp: bool = False,
) -> nn.Module:
    """Make a trained net's global operations local, in place; parameters, buffers and state-dict keys stay the same.

    Args:
        train_size: (N, C, H, W) of the patches the net was trained on.
        base_size: the window at the input's resolution, one number or (rows, columns); 1.5 times the patch when None.
        fast_imp: the published approximation of the box mean, for pooling and instance norm.

    Returns:
        The net, with `net.tlc_report` (a Report).

    Raises:
        ValueError: it was converted before; a bad size; a layer that sees maps of several sizes in one pass has no one window.
    """
    if hasattr(net, "tlc_report"):
        raise ValueError("the net was converted before; build it anew to convert it with other settings")
    train, base = _sizes(train_size, base_size)
    kinds = {module: kind for module in net.modules() if (kind := _rule_kind(module))}
    seen = probe(net, tuple(train_size), set(kinds))
    names = {module: [] for module in kinds}
    for path, module in net.named_modules(remove_duplicate=False):
        if module in names:
            names[module].append(path)

    converted, left_alone, replacements, inside = [], [], [], set()
    for module, kind in kinds.items():
        if module in inside:  # of a module that its own rule has dealt with
            continue
        path, before = names[module][0], type(module).__name__
        local, size, window = _apply_rule(kind, module, path, seen, train, base, fast_imp)
        if isinstance(local, str):
            left_alone.append(LeftAlone(path or _ROOT, before, "", local))
            continue
        note = "fast_imp does not apply: exact" if fast_imp and not _RULES[kind][1] else ""
        converted.append(Converted(path or _ROOT, before, type(local).__name__, size, window, note))
        own = set(module.modules())
        for part in local.modules():
            if part not in own:  # layers that were taken over keep their mode
                part.training = module.training
        inside |= own
        replacements += [(name, local) for name in names[module]]
    for name, local in replacements:
        net = _replace(net, name, local)
    if any(c.note for c in converted):
        warnings.warn(
            f"fast_imp has no effect on {sum(bool(c.note) for c in converted)} of {len(converted)} layers: "
            "there is no approximation of attention, they are exact",
            stacklevel=2,
        )
    done = [path for module in kinds for path in names[module]]
    left_alone += _not_converted(seen.global_ops, done)
    net.tlc_report = Report(train, base, fast_imp, tuple(converted), tuple(left_alone))
    return net


def _sizes(train_size: tuple[int, ...], base_size: int | Size | None) -> tuple[Size, Size]:
    if not isinstance(train_size, (tuple, list)) or len(train_size) != 4 or min(train_size) < 1:
        raise ValueError(f"train_size is {train_size}; give the training patches' (N, C, H, W), such as (1, 3, 256, 256)")
    train = tuple(train_size[2:])
    if base_size is None:
        base = tuple(3 * t // 2 for t in train)
    else:
        base = (base_size, base_size) if isinstance(base_size, int) else tuple(base_size)
    if len(base) != 2 or min(base) < 1:
        raise ValueError(f"base_size is {base_size}; give the window as one positive number or as (rows, columns)")
    return train, base


def _rule_kind(module: nn.Module) -> type[nn.Module] | None:
    return next((kind for kind in type(module).__mro__ if kind in _RULES), None)


def _apply_rule(
    kind: type[nn.Module], module: nn.Module, path: str, seen: Probe, train: Size, base: Size, fast_imp: bool
) -> tuple[nn.Module | str, Size, Size]:
    """The local module, or why there is none; its map's size in training, and its window."""
    sizes = sorted(seen.sizes[module])
    if not sizes:
        return "it did not run in the dry run, so it has no window", (0, 0), (0, 0)
    if module in seen.flattened:
        return "the net reshapes its 1x1 output to a vector; use 1x1 convolutions instead of nn.Linear after it", (0, 0), (0, 0)
    function, has_fast = _RULES[kind]
    size = sizes[0]
    window = tuple(max(1, s * b // t) for s, b, t in zip(size, base, train, strict=True))
    stride = tuple(max(1, 5 * s // t) for s, t in zip(size, train, strict=True)) if fast_imp and has_fast else None
    local = function(module, Site(path, size, window, stride))
    if len(sizes) > 1 and not isinstance(local, str):
        raise ValueError(
            f"{path or _ROOT} ({type(module).__name__}) sees maps of {', '.join(map(_by, sizes))} in one pass, "
            "so it has no one window; use a module of its own for each size"
        )
    return local, size, window


def _replace(net: nn.Module, path: str, new: nn.Module) -> nn.Module:
    """Put `new` in the place called `path`; returns the net, which is `new` itself for the path ''."""
    if not path:
        return new
    parent, _, name = path.rpartition(".")
    net.get_submodule(parent)._modules[name] = new
    return net


def _not_converted(operations: Iterable[GlobalOp], done: list[str]) -> list[LeftAlone]:
    """The global operations outside the modules that a rule has dealt with, each place once."""
    reason = "no rule converts it: make it a module of its own and give it a rule (basicsr.tlc.rule)"
    found = {}
    for op in operations:
        if not any(op.path == path or op.path.startswith(path + ".") for path in done):
            found[op.path, op.where] = LeftAlone(op.path or _ROOT, op.name, op.where, reason)
    return list(found.values())


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
