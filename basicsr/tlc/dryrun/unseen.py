"""What the report says beside global operations: what the dry run did not see, and what depends on chance or on the size."""

from collections.abc import Iterable

from torch import nn

from basicsr.tlc.dryrun.seen import Probe
from basicsr.tlc.report import ROOT, LeftAlone, by

_VALUES = "its result depends on values: what the dry run did not take was not seen"
_ZEROS = "its forward does not run on shapes ({}), and ran on zeros: what it does outside of PyTorch's operations was not seen"
_CHANCE = "it draws random numbers, so that no two runs agree, with TLC or without: nothing to do"
_STRETCHED = "its learned map of {} is stretched to the image's size, and so is another than in training: it has no local form"


def unseen(net: nn.Module, seen: Probe) -> list[LeftAlone]:
    """A row for each module and each such thing."""
    rows = []
    for path, line in seen.values.items():
        module = net.get_submodule(path)
        idle = [".".join(filter(None, (path, name))) for name in _idle(module, seen)]
        names = ", ".join(idle) if len(idle) < 4 else f"{idle[0]}, {idle[1]} ... {idle[-1]}"
        rows.append(_row(module, path, line, f"{_VALUES}; {names} did not run" if idle else _VALUES))
    for path, module in net.named_modules():
        if type(module) in seen.setup.opaque and seen.calls[module][0]:
            rows.append(_row(module, path, "", _ZEROS.format(seen.setup.opaque[type(module)])))
    rows += [_row(net.get_submodule(path), path, line, _CHANCE) for path, line in seen.draws.items()]
    for path, (line, size) in seen.stretched.items():
        rows.append(_row(net.get_submodule(path), path, line, _STRETCHED.format(by(size))))
    return rows


def _row(module: nn.Module, path: str, line: str, reason: str) -> LeftAlone:
    return LeftAlone(path or ROOT, type(module).__name__, line, reason)


def _idle(module: nn.Module, seen: Probe) -> Iterable[str]:
    """Entries of the lists in a module that did not run, none of what they hold."""
    for path, parts in module.named_modules():
        if isinstance(parts, (nn.ModuleList, nn.ModuleDict)):
            for name, part in parts.named_children():
                if not any(seen.calls[inner][0] for inner in part.modules()):
                    yield f"{path}.{name}".lstrip(".")
