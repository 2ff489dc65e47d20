"""Modules that are to run in windows that cover their maps: which they are, and whether they can.

The dry run has shown what they are given, and runs of each alone on meta show what they return and whether they take windows.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from basicsr.tlc.dryrun.attributes import changed_in
from basicsr.tlc.dryrun.calls import Call
from basicsr.tlc.dryrun.flow import kind_of
from basicsr.tlc.dryrun.roles import Unclear, role_of, sizes_of
from basicsr.tlc.dryrun.running import run_on_meta, state_watched
from basicsr.tlc.dryrun.seen import Probe
from basicsr.tlc.dryrun.shapes import Operation, Shapes, tensors_in
from basicsr.tlc.local import Size
from basicsr.tlc.local.windows import Extent, InWindows, Pixels, Role, argument_names, mapped
from basicsr.tlc.report import ROOT, Converted, Scale, by
from basicsr.tlc.selection import Selection

_SEARCHED = 32  # windows that are tried, in either direction, for one that fits


@dataclass(frozen=True)
class Windowed:
    """A module that is to run in windows. names: all its paths."""

    names: list[str]
    module: nn.Module
    forward: InWindows
    row: Converted


def windowed(net: nn.Module, seen: Probe, scale: Scale, selection: Selection) -> list[Windowed]:
    """The outermost modules that the patterns of `in_windows` match, among those that look at a whole map.

    Raises:
        ValueError: one of them cannot, or is to stay as it is, too.
    """
    if not selection.has_windows:
        return []
    paths: dict[nn.Module, list[str]] = {}
    for path, module in net.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    found: list[Windowed] = []
    for module, names in paths.items():
        if not all(seen.calls[module]):
            continue
        places = _global_places(module, names, seen)
        own = [(name, [operation for path, operation in places if path == name]) for name in names]
        if not places or not selection.in_windows(own, [(path, [operation]) for path, operation in places]):
            continue
        if any(is_inside(names[0], other) for outer in found for other in outer.names):
            continue
        try:
            forward, size = _forward(module, seen, scale)
        except Unclear as reason:
            raise ValueError(f"in_windows: {names[0] or 'the net itself'} cannot run in windows: {reason}") from None
        note = scale.note(fast=False, blends=True)
        row = Converted(names[0] or ROOT, type(module).__name__, "in windows", size, forward.window, note)
        found.append(Windowed(names, module, forward, row))
    return found


def is_inside(name: str, path: str) -> bool:
    """Whether a module called `name` is that called `path`, or in it."""
    return not path or f"{name}.".startswith(f"{path}.")


def _global_places(module: nn.Module, names: list[str], seen: Probe) -> list[tuple[str, str]]:
    """The paths of modules in one, and the operations by which they look at a whole map; those that may, too."""
    places = [(op.path, op.name) for op in seen.global_ops if op not in seen.unused]
    places = [place for place in places if any(is_inside(place[0], name) for name in names)]
    opaque = [path for path, part in module.named_modules() if type(part) in seen.setup.opaque]
    return places + [(f"{names[0]}.{path}".strip("."), type(module.get_submodule(path)).__name__) for path in opaque]


def _forward(module: nn.Module, seen: Probe, scale: Scale) -> tuple[InWindows, Size]:
    """What takes the place of a module's forward, and its map's size in training.

    Raises:
        Unclear: there is nothing.
    """
    if "forward" in vars(module):
        raise Unclear("its forward was replaced by hand")
    if held := next(iter(changed_in(module, *seen.attributes)), ""):
        raise Unclear(f"its {held} is set from outside of its forward, where windows have another; hand it over as an argument")
    if len(seen.calls[module][0]) != len(seen.calls[module][1]):
        raise Unclear("it does not run equally often for images of any size")
    calls = [*zip(*seen.calls[module], strict=True)]
    named = [tuple(_named(module, call) for call in pair) for pair in calls]
    sizes = {sizes_of(*pair) for pair in named}
    if len(sizes) > 1:
        raise Unclear("it sees maps of several sizes in one pass, so it has no one window; use a module of its own for each")
    sizes = sizes.pop()
    given, result = {}, None
    for pair, call in zip(named, calls, strict=True):
        roles = role_of(*pair, sizes, given=True)
        outputs = role_of(*(_run(module, each, seen) for each in call), sizes, given=False)
        if any(given.get(name, role) != role for name, role in roles.items()) or result not in (None, outputs):
            raise Unclear("what it is given or returns differs from call to call")
        given, result = {**given, **roles}, outputs
    forward = InWindows(module, given, result, scale.window(sizes[0]), scale.blended)
    _check_window(forward, calls[0][0], sizes[0], seen, scale)
    return forward, sizes[0]


def _named(module: nn.Module, call: Call) -> dict[str, object]:
    return {**dict(zip(argument_names(module, len(call[0])), call[0], strict=True)), **call[1]}


def _run(module: nn.Module, call: Call, seen: Probe) -> object:
    shapes = _Watched(seen, call)
    with state_watched(module) as changed:
        out = run_on_meta(module, *call, shapes, seen.setup)
    if changed:
        raise Unclear(f"its forward stores {changed[0]} on the module, which would be that of one window")
    if shapes.changes:
        raise Unclear("its forward changes what it is given, where windows are copies; let it work on a copy")
    return out


class _Watched(Shapes):
    """Sees whether a module's arguments are changed in place, or views of them."""

    def __init__(self, seen: Probe, call: Call) -> None:
        super().__init__(seen.known, seen.setup.stays)
        self.changes = False
        self._given = [x for x in tree_leaves(call) if isinstance(x, Tensor)]  # kept, so that ids stay their own

    def saw(self, function, args: tuple, kwargs: dict, out: object, operation: Operation) -> None:
        if args and any(args[0] is x for x in self._given):
            changes, is_view = kind_of(function)
            self.changes |= changes
            self._given += tensors_in((out,)) if is_view else []


def _check_window(forward: InWindows, call: Call, size: Size, seen: Probe, scale: Scale) -> None:
    """Raises Unclear where the module does not take its window; with windows near it that it does."""
    expected = _run(forward.module, call, seen)
    error = _misfit(forward, call, expected, forward.window, seen)
    if not error:
        return
    step = max(-(-t // s) for t, s in zip(scale.train, size, strict=True))  # a window that is larger by one
    fitting = {}
    for direction in (-1, 1):
        for i in range(1, _SEARCHED + 1):
            base = tuple(max(1, b + direction * i * step) for b in scale.base)
            window = replace(scale, base=base).window(size)
            if not _misfit(forward, call, expected, window, seen):
                fitting[base] = window
                break
    fitting = fitting or {scale.train: size}  # as in training
    told = [f"base_size={base[0] if base[0] == base[1] else base} ({by(window)})" for base, window in fitting.items()]
    raise Unclear(f"its window of {by(forward.window)} does not fit it ({error}); one that does comes of {' or '.join(told)}")


def _misfit(forward: InWindows, call: Call, expected: object, window: Size, seen: Probe) -> str:
    """Why a module does not take windows of a size, or ''. expected: what it makes of the call, in training."""

    def resized(role: Role, value: object) -> object:
        if isinstance(role, Extent):
            return window[0] * window[1] if len(role.sides) == 2 else window[role.sides[0]]
        if not isinstance(role, Pixels) or not isinstance(value, Tensor):
            return value
        shape, (rows, columns) = [*value.shape], (k * s for k, s in zip(window, role.scale, strict=True))
        for dim, length in zip(role.dims, (rows, columns) if len(role.dims) == 2 else (rows * columns,), strict=True):
            shape[dim] = length
        return value.new_empty(shape)

    names = argument_names(forward.module, len(call[0]))
    args = tuple(mapped(resized, forward.given[name], value) for name, value in zip(names, call[0], strict=True))
    kwargs = {name: mapped(resized, forward.given[name], value) for name, value in call[1].items()}
    try:
        out = _run(forward.module, (args, kwargs), seen)
    except Unclear:
        raise
    except Exception as error:  # noqa: BLE001 - the user's operations may fail in any way
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}"
    shapes: list[tuple[torch.Size, torch.Size]] = []
    mapped(lambda role, a, b: shapes.append((a.shape, b.shape)), forward.result, out, mapped(resized, forward.result, expected))
    return next((f"it gives {tuple(a)}, not {tuple(b)}" for a, b in shapes if a != b), "")
