"""Learning rates as pure functions of the iteration: resuming needs no state. The names are the published files'.

Each builder takes the options of `train.scheduler` and returns f(iteration, base_lr) -> lr; iterations count from 0.
"""

import math
from bisect import bisect_right
from collections.abc import Callable

from basicsr.registry import Registry

Schedule = Callable[[int, float], float]
SCHEDULERS = Registry("scheduler")


def _cosine(iteration: int, length: int, start: float, end: float) -> float:
    progress = min(1.0, iteration / length)
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


@SCHEDULERS.register
def TrueCosineAnnealingLR(*, T_max: int, eta_min: float = 0.0) -> Schedule:
    """Half a cosine from the base rate to eta_min over T_max iterations, eta_min after that."""
    if T_max < 1:
        raise ValueError(f"T_max is {T_max}, but the schedule needs at least one iteration")
    if eta_min < 0:
        raise ValueError(f"eta_min is {eta_min}, but a learning rate is not negative")
    return lambda iteration, base_lr: _cosine(iteration, T_max, base_lr, eta_min)


@SCHEDULERS.register
def CosineAnnealingLR(*, T_max: int, eta_min: float = 0.0) -> Schedule:
    """The same as TrueCosineAnnealingLR."""
    return TrueCosineAnnealingLR(T_max=T_max, eta_min=eta_min)


@SCHEDULERS.register
def CosineAnnealingRestartCyclicLR(
    *, periods: tuple[int, ...], restart_weights: tuple[float, ...], eta_mins: tuple[float, ...]
) -> Schedule:
    """One cosine a period, from base rate x weight to eta_min (Restormer: 92k constant, then 208k to 1e-6)."""
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
    """Times gamma at every milestone."""
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
