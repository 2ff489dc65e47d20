"""What the dry run did not see: what a forward does with values, and outside of PyTorch's operations."""

from collections.abc import Iterable

from torch import nn

from basicsr.tlc.dryrun.probe import Probe
from basicsr.tlc.report import ROOT, LeftAlone

_VALUES = "its result depends on values: what the dry run did not take was not seen"
_ZEROS = "its forward does not run on shapes ({}), and ran on zeros: what it does outside of PyTorch's operations was not seen"


def unseen(net: nn.Module, seen: Probe) -> list[LeftAlone]:
    """A row for each module of which something was not."""
    rows = []
    for path, line in seen.values.items():
        module = net.get_submodule(path)
        idle = [".".join(filter(None, (path, name))) for name in _idle(module, seen)]
        names = ", ".join(idle) if len(idle) < 4 else f"{idle[0]}, {idle[1]} ... {idle[-1]}"
        rows.append(_row(module, path, line, f"{_VALUES}; {names} did not run" if idle else _VALUES))
    for path, module in net.named_modules():
        if type(module) in seen.setup.opaque and seen.calls[module][0]:
            rows.append(_row(module, path, "", _ZEROS.format(seen.setup.opaque[type(module)])))
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
