"""What was measured of images, and what follows from it: means, gains, seconds."""

import logging
import math
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from basicsr.errors import UserError, counted, first_ten

logger = logging.getLogger("basicsr")


@dataclass(frozen=True)
class ImageResult:
    """cold: the first image of its process, whose seconds hold what is set up once.

    features, input_features: what metrics of the whole set keep of the restored and of the degraded image.
    """

    name: str
    size: tuple[int, int]  # height, width
    metrics: dict[str, float]  # inf: PSNR of an image that is its ground truth
    input_metrics: dict[str, float]  # of the degraded image itself
    seconds: float  # for the network alone
    cold: bool = False
    features: dict[str, np.ndarray] = field(default_factory=dict)
    input_features: dict[str, np.ndarray] = field(default_factory=dict)


class Evaluation(NamedTuple):
    """failed: why, by the names of the images that could not be restored or measured; at least one could."""

    images: list[ImageResult]
    failed: dict[str, str]

    def complete(self) -> list[ImageResult]:
        """All images' results; UserError when one failed."""
        if self.failed:
            raise UserError(self.failures())
        return self.images

    def failures(self) -> str:
        """Which failed and why: the first ten and the count."""
        count = len(self.images) + len(self.failed)
        reasons = first_ten(f"{name} ({why})" for name, why in self.failed.items())
        return f"{len(self.failed)} of {counted(count, 'image')} failed: {reasons}."


@dataclass(frozen=True)
class Run:
    """One network on one data set.

    failed: see `Evaluation`. groups: names of images that have means of their own, by the group's name.
    group: of which one this run is a part, see `with_groups`; '' of a whole data set.
    whole, input_whole: the figures of metrics of the whole set, see `of_sets`; a group has none.
    """

    network: str
    tlc: bool
    dataset: str
    images: list[ImageResult]
    failed: dict[str, str] = field(default_factory=dict)
    groups: Mapping[str, Collection[str]] = field(default_factory=dict)
    group: str = ""
    whole: dict[str, float] = field(default_factory=dict)
    input_whole: dict[str, float] = field(default_factory=dict)

    def figures(self, field: str = "metrics") -> dict[str, float]:
        """Of every metric: the mean over the images, or what it makes of the whole set. field: see `means`."""
        return means(self.images, field) | {"metrics": self.whole, "input_metrics": self.input_whole}[field]

    @property
    def seconds_per_image(self) -> float:
        return seconds_per_image(self.images)


def with_groups(runs: Iterable[Run]) -> list[Run]:
    """Each run, and after it those of its groups of which there are images, called `<data set>, <group>`."""
    found = []
    for run in runs:
        found.append(run)
        for group, names in run.groups.items():
            if images := [image for image in run.images if image.name in names]:
                found.append(Run(run.network, run.tlc, f"{run.dataset}, {group}", images, group=group))
    return found


def average(runs: Sequence[Run], field: str = "metrics") -> dict[str, float]:
    """The mean of the figures of several data sets, each of which counts alike; of the metrics that all have."""
    of_each = [run.figures(field) for run in runs if not run.group]
    shared = [name for name in of_each[0] if all(name in values for values in of_each)]
    return {name: statistics.fmean(values[name] for values in of_each) for name in shared}


def by_network(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Of whole data sets."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        if not run.group:
            found.setdefault(run.network, []).append(run)
    return found


def mean(values: Iterable[float]) -> float:
    """Of those that are finite; nan where there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def means(results: Sequence[ImageResult], field: str = "metrics") -> dict[str, float]:
    """The mean of every metric over the images, without those that `identical` counts."""
    return {name: mean(getattr(r, field)[name] for r in results) for name in getattr(results[0], field)}


def of_sets(metrics: Mapping[str, Callable], results: Sequence[ImageResult], field: str = "features") -> dict[str, float]:
    """What each metric of the whole set, such as FID, makes of all images; nan where it can make nothing of them."""
    kept = [getattr(result, field) for result in results]
    found = {}
    for name in dict.fromkeys(name for arrays in kept for name in arrays):
        try:
            found[name] = float(metrics[name].of_set([arrays[name] for arrays in kept]))
        except KeyError:
            found[name] = math.nan  # some degraded images could not be measured
        except (UserError, ValueError, TypeError, RuntimeError, ArithmeticError, MemoryError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            logger.error("%s of %s: %s", name, counted(len(results), "image"), reason)
            found[name] = math.nan
    return found


def identical(results: Sequence[ImageResult], field: str = "metrics") -> dict[str, int]:
    """How many images have an infinite value of a metric: PSNR has, of an image that is its ground truth."""
    return {name: sum(math.isinf(getattr(r, field)[name]) for r in results) for name in getattr(results[0], field)}


def seconds_per_image(results: Sequence[ImageResult]) -> float:
    """The median, without the first image of each process if there are others."""
    return statistics.median([r.seconds for r in results if not r.cold] or [r.seconds for r in results])


def plain_and_local(runs: list[Run]) -> tuple[Run, Run] | None:
    """The run without and the one with TLC, if both are there."""
    by_tlc = {run.tlc: run for run in runs}
    return (by_tlc[False], by_tlc[True]) if len(by_tlc) == 2 else None


def gain(plain: float, local: float, *, lower: bool = False) -> float:
    """How much better `local` is, where `lower` or higher values are; 0 where both are infinite."""
    return 0.0 if plain == local else (plain - local if lower else local - plain)


def gains(plain: Sequence[ImageResult], local: Sequence[ImageResult], metric: str, *, lower: bool = False) -> list[float]:
    """The gain of every image that both have."""
    before = {image.name: image.metrics[metric] for image in plain}
    return [gain(before[image.name], image.metrics[metric], lower=lower) for image in local if image.name in before]
