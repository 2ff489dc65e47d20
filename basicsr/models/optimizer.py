"""Optimisers by name: torch's, and those of any package as `package.module:Name`."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from basicsr.errors import UserError
from basicsr.registry import Registry

OPTIMIZERS = Registry("optimizer", base="torch.optim:Optimizer")
for _entry in (
    torch.optim.Adadelta,
    torch.optim.Adagrad,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.SGD,
):
    OPTIMIZERS.register(_entry)

# What their arguments beside lr, weight_decay and betas mean; the others choose between implementations.
ARGUMENTS = {
    "eps": "Added to the denominator, against division by zero.",
    "amsgrad": "Divide by the largest average of the squared gradient so far.",
    "momentum": "Decay rate of the average of the gradient.",
    "dampening": "Part of the gradient that does not enter that average.",
    "nesterov": "Nesterov's momentum.",
    "alpha": "Decay rate of the average of the squared gradient.",
    "centered": "Divide by an estimate of the gradient's variance.",
    "momentum_decay": "Decay of the momentum over the steps.",
    "rho": "Decay rate of the average of the squared gradient.",
    "lr_decay": "Decay of the learning rate over the steps.",
    "initial_accumulator_value": "What the sum of squared gradients starts from.",
}
SWITCHES = ("foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay")
_ADAMS = (torch.optim.Adam, torch.optim.AdamW)
_FUSED = (*_ADAMS, torch.optim.SGD)  # on CPUs and GPUs alike


def make_optimizer(
    name: str, groups: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any], where: str = "train.optim_g"
) -> torch.optim.Optimizer:
    """An optimiser over groups of parameters that are on their device.

    Args:
        groups: {"params": [...], "base_lr": ..., and settings of the group's own}.
        arguments: of the class, `lr` among them; a `weight_decay` of 0 is left out where the class has none.

    Raises:
        UserError: an unknown name; an argument that the class does not have or take; one that needs a closure.
    """
    optimizer_class = OPTIMIZERS.get(name, f"{where}.type")
    words = inspect.signature(optimizer_class).parameters
    if _needs_closure(optimizer_class):
        raise UserError(
            f"{where}: {name} evaluates the loss several times a step, which training does not offer; take another."
        )
    if "weight_decay" not in words and not any(group.get("weight_decay") for group in groups):
        arguments = {word: value for word, value in arguments.items() if word != "weight_decay"}
        groups = [{word: value for word, value in group.items() if word != "weight_decay"} for group in groups]
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    if optimizer_class in _FUSED and devices <= {"cpu", "cuda"} and not {"foreach", "differentiable"} & arguments.keys():
        arguments = {"fused": True, **arguments}  # one pass over the weights instead of a dozen
    make = OPTIMIZERS.bind(name, arguments, where, later=("params",))
    try:
        return make(groups)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{where}: {name}: {(str(error) or type(error).__name__).splitlines()[0]}.") from error


def skips_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `step_if` can leave it to the device whether there is a step.

    Of torch's fused optimisers SGD cannot: without its first step, what it then takes for the momentum was never written.
    """
    return type(optimizer) in _ADAMS and all(group["fused"] for group in optimizer.param_groups)


def step_if(wanted: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """optimizer.step() if `wanted`, one element on the device, is true, for which nobody waits.

    Of optimisers that `skips_itself` knows: it is what they offer to torch.amp.GradScaler.
    """
    optimizer.found_inf = (~wanted).float()
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf


def settings_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What the options say about each group: its learning rates and what the constructor takes, without the optimiser's own
    counts, which schedule-free ones keep there too."""
    owners = inspect.getmro(type(optimizer))
    words = {word for owner in owners for word in inspect.signature(owner.__init__).parameters} - {"params"} | {"base_lr"}
    return [{word: value for word, value in group.items() if word in words} for group in optimizer.param_groups]


def _needs_closure(optimizer_class: type[torch.optim.Optimizer]) -> bool:
    closure = inspect.signature(optimizer_class.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty
