"""Local layers in the places of global ones, and whether the net takes them there.

It may not: where it also calls a layer by way of a list of its own, which keeps the old one, where it asks the layer for
attributes that the local one lacks, or where it does with a layer's output what no map allows: it branches on its size, say.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import nn

from basicsr.tlc.dryrun.running import dry_run, shapes_of
from basicsr.tlc.dryrun.seen import Probe
from basicsr.tlc.dryrun.steps import Steps, outside
from basicsr.tlc.report import Converted
from basicsr.tlc.rules import is_layer

_ALIASED = (
    "the net calls it by way of something else than its submodules, such as a list, where no other layer can be put; "
    "call it by its own name, or use nn.ModuleList"
)
_ASKED = (
    "what the net does with its 1x1 output depends on the output's size: a branch, a factor or a part of it; a map in its "
    "place has another size"
)


@dataclass(frozen=True)
class Replacement:
    names: list[str]
    module: nn.Module
    local: nn.Module
    row: Converted
    before: list[tuple[nn.Module, dict]] | None = None  # what the module was, where its rule changed it in place


def replaced(net: nn.Module, path: str, new: nn.Module) -> nn.Module:
    """Put `new` in the place called `path`; returns the net, which is `new` itself for the path ''."""
    if not path:
        return new
    parent, _, name = path.rpartition(".")
    net.get_submodule(parent)._modules[name] = new
    return net


def misfits(
    net: nn.Module, replacements: Sequence[Replacement], size: tuple[int, ...], seen: Probe
) -> list[tuple[Replacement, str]]:
    """The replacements that the net cannot take, and why; it is run on meta, and left as it was.

    Args:
        size: (N, C, H, W) of an image. seen: what the net made of it before.
    """
    swaps = [swap for swap in replacements if swap.local is not swap.module]  # a rule that changed its module is final
    if not swaps:
        return []
    trial = _Trial(net, size, seen, {layer for swap in swaps for layer in (swap.module, swap.local)})
    layers = [swap for swap in swaps if is_layer(swap.module)]
    found = [*trial.misfits(layers), *trial.misfits([swap for swap in swaps if swap not in layers])]
    return found if not found or not trial.run([])[1] else []


class _Trial:
    """Runs of a net with some of its layers replaced, against what it made of the image before.

    Args:
        layers: the old ones and the local ones, whose own operations may differ.
    """

    def __init__(self, net: nn.Module, size: tuple, seen: Probe, layers: set[nn.Module]) -> None:
        self.net, self.size, self.seen, self.layers = net, size, seen, layers
        self.steps = outside(seen.taken, layers)

    def misfits(self, swaps: list[Replacement]) -> list[tuple[Replacement, str]]:
        """By halves."""
        if not swaps:
            return []
        aliased, reason = self.run(swaps)
        if aliased:
            rest = [swap for swap in swaps if swap not in aliased]
            return [*((swap, _ALIASED) for swap in aliased), *self.misfits(rest)]
        if not reason:
            return []
        if len(swaps) == 1:
            return [(swaps[0], reason)]
        half = len(swaps) // 2
        found = [bad for part in (swaps[:half], swaps[half:]) for bad in self.misfits(part)]
        return found or [(swap, reason) for swap in swaps]

    def run(self, swaps: list[Replacement]) -> tuple[list[Replacement], str]:
        """Those in whose place the old layer runs; and what goes wrong, or ''."""
        seen = self.seen
        with _in_place(self.net, swaps) as (local, ran):
            try:
                outputs, steps = self._dry_run(local)
            except Exception as error:  # noqa: BLE001 - the user's operations may fail in any way
                text = str(error).strip().partition("\n")[0][:160]
                return (
                    [],
                    f"with a local layer in its place the net fails ({type(error).__name__}: {text}); give its module a rule",
                )
            aliased = [swap for swap in swaps if swap.local not in ran or swap.module in ran]
        # A net that is a pool's output and nothing else hands out the pool's map instead.
        if not (outputs == seen.outputs or (len(outputs) == 1 and seen.outputs[0][-2:] == (1, 1))):
            return aliased, "with a local layer in its place the net's output has another size; give its module a rule"
        by_rule = not all(is_layer(swap.module) for swap in swaps)  # whose author knows what the net does with its output
        return aliased, "" if by_rule or steps == self.steps else _ASKED

    def _dry_run(self, net: nn.Module) -> tuple[list[tuple[int, ...]], Counter]:
        steps, seen = Steps(self.seen.known, self.seen.setup.stays), self.seen
        with _by_modules(steps, self.layers):
            return shapes_of(dry_run(net, self.size, steps, seen.setup)), outside(steps.taken, self.layers)


@contextmanager
def _by_modules(steps: Steps, modules: Iterable[nn.Module]) -> Iterator[None]:
    with ExitStack() as back:
        for module in modules:
            back.callback(module.register_forward_pre_hook(lambda module, args: steps.entered(module)).remove)
            back.callback(module.register_forward_hook(lambda *_: steps.left()).remove)
        yield


@contextmanager
def _in_place(net: nn.Module, swaps: list[Replacement]) -> Iterator[tuple[nn.Module, set[nn.Module]]]:
    """The net with the local layers, and which of these and of the old ones ran then, other than old ones inside the new.

    Those for PyTorch's layers hand out the map that they are given: as large as theirs on any image larger than the window.
    """
    ran, local, hooks = set(), net, []
    for swap in swaps:
        watched = [swap.local] if swap.module in set(swap.local.modules()) else [swap.local, swap.module]
        hooks += [layer.register_forward_pre_hook(lambda module, args: ran.add(module)) for layer in watched]
        for name in swap.names:
            local = replaced(local, name, swap.local)
        if is_layer(swap.module):
            swap.local.forward = lambda input: input
    try:
        yield local, ran
    finally:
        for hook in hooks:
            hook.remove()
        for swap in swaps:
            if is_layer(swap.module):
                del swap.local.forward
            for name in swap.names:
                replaced(net, name, swap.module)
