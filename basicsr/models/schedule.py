"""Learning rates as pure functions of the iteration: resuming needs no state. The names are the published files'.

Each builder takes the options of `train.scheduler` and returns f(iteration, base_lr) -> lr; iterations count from 0. What is
written as `package.module:name` is such an f itself, with the options as further arguments:

    def decay(iteration: int, base_lr: float, *, half_life: int = 1000) -> float:
        return base_lr * 0.5 ** (iteration / half_life)
"""

import functools
import inspect
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any

from basicsr.custom import import_object
from basicsr.errors import UserError
from basicsr.registry import Registry, checked_arguments

Schedule = Callable[[int, float], float]
SCHEDULERS = Registry("scheduler")
_GIVEN = ("iteration", "base_lr")


def make_schedule(name: str, arguments: Mapping[str, Any], where: str = "train.scheduler") -> Schedule:
    """The schedule of a registered name, or of `package.module:name`.

    Raises:
        UserError: an unknown name or a bad option; what is no function of `iteration` and `base_lr`, such as a class of
            torch.optim.lr_scheduler; one that does not return a learning rate.
    """
    if ":" not in name:
        return SCHEDULERS.build(name, arguments, where)
    function = import_object(name, where)
    if not inspect.isfunction(function) or not set(_GIVEN) <= set(inspect.signature(function).parameters):
        raise UserError(
            f"{where}: `{name}` cannot be a scheduler: it has to be a function of `iteration`, from 0, and `base_lr` that "
            "returns the learning rate, with its options as further arguments."
        )
    rate = functools.partial(function, **checked_arguments(function, arguments, where, later=_GIVEN))
    try:
        first = rate(iteration=0, base_lr=1.0)
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise UserError(f"{where}: {name}: {(str(error) or type(error).__name__).splitlines()[0]}.") from error
    if isinstance(first, bool) or not isinstance(first, (int, float)) or not 0 <= first < math.inf:
        raise UserError(f"{where}: {name} returns {first!r} for iteration 0 and base_lr 1, which is no learning rate.")
    return lambda iteration, base_lr: rate(iteration=iteration, base_lr=base_lr)


def _cosine(iteration: int, length: int, start: float, end: float) -> float:
    progress = min(1.0, iteration / length)
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


@SCHEDULERS.register
def TrueCosineAnnealingLR(*, T_max: int, eta_min: float = 0.0) -> Schedule:
    """Half a cosine from the base rate to eta_min over T_max iterations, eta_min after that.

    Args:
        T_max: iterations of the cosine. eta_min: the learning rate at its end.
    """
    if T_max < 1:
        raise ValueError(f"T_max is {T_max}, but the schedule needs at least one iteration")
    if eta_min < 0:
        raise ValueError(f"eta_min is {eta_min}, but a learning rate is not negative")
    return lambda iteration, base_lr: _cosine(iteration, T_max, base_lr, eta_min)


@SCHEDULERS.register
def CosineAnnealingLR(*, T_max: int, eta_min: float = 0.0) -> Schedule:
    """The same as TrueCosineAnnealingLR.

    Args:
        T_max: iterations of the cosine. eta_min: the learning rate at its end.
    """
    return TrueCosineAnnealingLR(T_max=T_max, eta_min=eta_min)


@SCHEDULERS.register
def CosineAnnealingRestartCyclicLR(
    *, periods: tuple[int, ...], restart_weights: tuple[float, ...], eta_mins: tuple[float, ...]
) -> Schedule:
    """One cosine a period, from base rate x weight to eta_min (Restormer: 92k constant, then 208k to 1e-6).

    Args:
        periods: iterations of each cosine. restart_weights: factors of the base rate that they start from.
        eta_mins: the learning rates at their ends.
    """
    if not len(periods) == len(restart_weights) == len(eta_mins):
        raise ValueError("periods, restart_weights and eta_mins must have as many entries")
    if not periods or min(periods) < 1:
        raise ValueError(f"periods is {list(periods)}, but each needs at least one iteration")
    if min(*restart_weights, *eta_mins) < 0:
        raise ValueError("restart_weights and eta_mins must not be negative: they are factors and ends of learning rates")
    ends = [sum(periods[: i + 1]) for i in range(len(periods))]

    def rate(iteration: int, base_lr: float) -> float:
        i = min(bisect_right(ends, iteration), len(periods) - 1)
        return _cosine(iteration - (ends[i] - periods[i]), periods[i], base_lr * restart_weights[i], eta_mins[i])

    return rate


@SCHEDULERS.register
def MultiStepLR(*, milestones: tuple[int, ...], gamma: float = 0.1) -> Schedule:
    """Times gamma at every milestone.

    Args:
        milestones: iterations; without any, the learning rate is constant. gamma: the factor.
    """
    if gamma <= 0:
        raise ValueError(f"gamma is {gamma}, but the learning rate must stay positive")
    return lambda iteration, base_lr: base_lr * gamma ** bisect_right(sorted(milestones), iteration)


def with_warmup(schedule: Schedule, warmup_iter: int) -> Schedule:
    """A linear rise to the base rate over the first warmup_iter iterations; none when it is 0 or -1."""

    def rate(iteration: int, base_lr: float) -> float:
        if iteration < warmup_iter:
            return base_lr * (iteration + 1) / warmup_iter
        return schedule(iteration, base_lr)

    return rate
