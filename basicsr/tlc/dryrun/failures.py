"""Why there is no dry run of a net."""

import inspect
from dataclasses import replace

import torch
from torch import nn

from basicsr.tlc.dryrun.running import Inputs, Setup
from basicsr.tlc.report import by


class Failed(Exception):
    """A run did. `stack`: the classes of the modules that were running, innermost first; `final`: because of its shapes."""

    def __init__(self, size: tuple[int, ...], stack: list[type], final: bool, reason: str) -> None:
        super().__init__(reason)
        self.size, self.stack, self.final, self.reason = size, stack, final, reason


def check(net: nn.Module, inputs: Inputs) -> None:
    """Raises ValueError for nets that no dry run is possible of."""
    for path, module in net.named_modules():
        name = path or "the net"
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            raise ValueError(f"{name} is wrapped in nn.{type(module).__name__}; convert the net inside, and wrap it then")
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"{name} is in TorchScript, which shows no operations; convert the net that it was made of")
    needed = [p.name for p in _parameters(net) if p.default is p.empty][1:]
    if needed and inputs == (...,):
        raise ValueError(
            f"the forward of {type(net).__name__} needs {', '.join(needed)} besides the image; give "
            f"inputs=lambda image: (image, {', '.join(needed)}), or as an option inputs: {{{needed[0]}: [its shape]}}"
        )


def _parameters(net: nn.Module) -> list[inspect.Parameter]:
    """Of its forward."""
    parameters = inspect.signature(net.forward).parameters.values()
    return [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def other_setup(failed: Failed, setup: Setup) -> Setup | None:
    """The one to be tried next; None: none would help.

    First, what asks for another device stays on meta. Then the innermost of the net's own modules that fail runs on zeros, and
    the one around it where it failed so, too.
    """
    tried = [kind for kind in failed.stack if kind in setup.opaque]
    if failed.final or any(setup.opaque[kind] == failed.reason for kind in tried):
        return None
    if not setup.stays:
        return replace(setup, stays=True)
    own = (kind for kind in failed.stack if kind not in setup.opaque and not kind.__module__.startswith("torch.nn"))
    kind = next(own, None)
    return None if kind is None else replace(setup, opaque={**setup.opaque, kind: failed.reason})


def why(net: nn.Module, size: tuple[int, ...], failed: Failed, setup: Setup) -> str:
    """The sentence for the user, of the last failure."""
    if failed.size == size:
        zeros = ", on zeros, too" if any(kind in setup.opaque for kind in failed.stack) else ""
        absent = [p.name for p in _parameters(net) if p.default is None]
        hint = f"; {', '.join(absent)} is None by default: it may need inputs=lambda image: (image, ...)" if absent else ""
        return (
            f"the dry run of {type(net).__name__} at train_size {size} failed{zeros} ({failed.reason}); "
            f"give train_size as the (N, C, H, W) of its training patches"
            + (", and move the net to the device that its kernels are for" if zeros else "")
            + hint
        )
    return (
        f"{type(net).__name__} takes images of {by(size[2:])} only, at {by(failed.size[2:])} it fails ({failed.reason}); "
        "run it on tiles of that size, where TLC has nothing to do"
    )
