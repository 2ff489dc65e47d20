"""What a conversion does to a net, kept with the net, and the way back."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.utils.hooks import RemovableHandle

from basicsr.tlc.dryrun.misfits import Replacement, replaced
from basicsr.tlc.local.patches import Sampler
from basicsr.tlc.local.windows import InWindows
from basicsr.tlc.rewriting.local_forward import Local

Forward = Local | InWindows  # what takes the place of a module's
_KEPT = "_tlc_changes"


@dataclass(frozen=True)
class Changes:
    """What takes the place of what. The modules that were replaced hold the same parameters, so that they cost no memory."""

    replacements: tuple[Replacement, ...]
    forwards: tuple[tuple[nn.Module, Forward], ...]
    hooks: tuple[RemovableHandle, ...]


def changed(
    net: nn.Module, replacements: Sequence[Replacement], forwards: Sequence[tuple[nn.Module, Forward]], sampler: Sampler | None
) -> nn.Module:
    """Put the local layers and forwards in; returns the net, which is another module where the net itself was replaced."""
    for swap in replacements:
        take_hooks(swap.local, swap.module)
        for name in swap.names:
            net = replaced(net, name, swap.local)
    for module, forward in forwards:
        module.forward, module.extra_repr = forward, forward.extra_repr
    hooks = sampler.attach(net) if sampler else ()
    setattr(net, _KEPT, Changes(tuple(replacements), tuple(forwards), tuple(hooks)))
    return net


def revert(net: nn.Module) -> nn.Module:
    """Undo `convert`, in place: the modules and forwards that it replaced are back, with the parameters as they are now.

    Parts that were converted by themselves before stay converted; revert each of them.

    Returns:
        The net without a report, which can be converted again; another module where `convert` had replaced the net itself.

    Raises:
        ValueError: it was not converted.
    """
    changes: Changes | None = vars(net).get(_KEPT)
    if changes is None:
        parts = [path for path, part in net.named_modules() if _KEPT in vars(part)]
        raise ValueError("the net is not converted" + (f"; its part {parts[0]} is, revert that" if parts else ""))
    for hook in changes.hooks:
        hook.remove()
    for module, _ in changes.forwards:
        del module.forward, module.extra_repr
    delattr(net, _KEPT)
    del net.tlc_report
    for swap in changes.replacements:
        if swap.before is not None:
            take_back(swap.before)
            continue
        _take_state(swap.module, swap.local)
        take_hooks(swap.module, swap.local)
        for name in swap.names:
            net = replaced(net, name, swap.module)
    return net


def attributes(module: nn.Module) -> list[tuple[nn.Module, dict]]:
    """A module and those in it, each with its attributes as they are now."""
    return [(part, {k: v.copy() if isinstance(v, dict) else v for k, v in vars(part).items()}) for part in module.modules()]


def take_back(before: list[tuple[nn.Module, dict]]) -> None:
    """Undo what a rule did to a module in place; its mode and hooks stay, and its parameters keep the values of now."""
    for part, old in before:
        now = vars(part)
        kept = {name: value for name, value in now.items() if name == "training" or "_hook" in name}
        for own in ("_parameters", "_buffers"):
            old[own] = {name: now[own].get(name, value) for name, value in old[own].items()}
        now.clear()
        now.update({**old, **kept})


def take_hooks(module: nn.Module, other: nn.Module) -> None:
    """Give a module the hooks of the one that it replaces: the same dicts, so that their handles still remove them."""
    for name, hooks in vars(other).items():
        if "_hook" in name and hooks and not getattr(module, name):
            setattr(module, name, hooks)


def _take_state(module: nn.Module, local: nn.Module) -> None:
    """Parameters and buffers by name, and the mode: those of the local layer may have been replaced since."""
    tensors = {**dict(local.named_parameters(remove_duplicate=False)), **dict(local.named_buffers(remove_duplicate=False))}
    kept = set(local.modules())
    for path, part in module.named_modules():
        if part in kept:
            continue
        part.training = local.training
        for own in (part._parameters, part._buffers):
            for name in own:
                own[name] = tensors.get(f"{path}.{name}".removeprefix("."), own[name])
