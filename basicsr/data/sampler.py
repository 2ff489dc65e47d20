"""Which samples a training iteration sees: a pure function of the seed and the iteration, whatever the number of processes,
of micro-batches or of workers, and wherever a run was interrupted."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset, Sampler

from basicsr.utils.seed import seed_processor


class Draw(NamedTuple):
    """The index of a training sample: which image, the seed of its crop and flips, the side of the crop."""

    number: int
    seed: tuple[int, int]
    size: int


class MixedDraw(NamedTuple):
    """The index of a sample that is a mean of two: `share` of the one, the rest of the other."""

    one: Draw
    other: Draw
    share: float


@dataclass(frozen=True)
class Mixing:
    """Mixup (Zhang et al., ICLR 2018, arXiv 1710.09412): every sample is mixed with another one of its batch.

    Partners are a random permutation of the global batch, as many as processes and micro-batches may be.

    Args:
        beta: shares are Beta(beta, beta). identity: with p = 1/2 a batch stays as it is.
        per_image: a share for every sample; otherwise one for the batch. start: the first iteration that mixes.
    """

    beta: float
    identity: bool = False
    per_image: bool = False
    start: int = 0

    def partners(self, iteration: int, batch_size: int, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Of every sample of a batch its partner's number and its own share; None where nothing is mixed."""
        rng = np.random.default_rng((seed, iteration, 1))
        if iteration < self.start or (self.identity and rng.random() < 0.5):
            return None
        shares = rng.beta(self.beta, self.beta, batch_size if self.per_image else 1)
        return rng.permutation(batch_size), np.broadcast_to(shares, batch_size)


@dataclass(frozen=True)
class Stage:
    """A part of the training with one patch size and one batch size (progressive learning has several).

    Args:
        iters: optimiser steps. gt_size: side of the patches. batch_size: patches a step, over all processes.
        micro_batch: patches that one process takes at once.
    """

    iters: int
    gt_size: int
    batch_size: int
    micro_batch: int

    def accumulation(self, world: int) -> int:
        """Forward passes of each of `world` processes for one step."""
        return self.batch_size // (world * self.micro_batch)


def stage_at(stages: Sequence[Stage], iteration: int) -> Stage:
    """The stage of an iteration, counted from 0; the last one goes on for ever."""
    for stage in stages:
        if iteration < stage.iters:
            return stage
        iteration -= stage.iters
    return stages[-1]


class SeededDataset(Dataset):
    """A data set whose samples may also use the global random number generators: they follow from the draw, too."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, draw: Draw | MixedDraw) -> dict:
        if isinstance(draw, MixedDraw):
            one, other = self[draw.one], self[draw.other]
            mixed = {side: draw.share * one[side] + (1 - draw.share) * other[side] for side in ("lq", "gt")}
            return {**one, **mixed, "name": f"{one['name']}+{other['name']}"}
        seed_processor(*draw.seed)
        return self.dataset[draw]


class EndlessBatchSampler(Sampler[list[Draw | MixedDraw]]):
    """The micro-batches of one process, iteration after iteration, without end.

    Samples are numbered through all epochs, each a new permutation of the images; step by step the next `batch_size` of them
    are dealt out: to the processes first, then to the accumulated micro-batches.

    Args:
        length: number of images. enlarge: how often each stands in an epoch.
        start, seen: the first iteration and how many samples were drawn before it.
        rank, world: this process and how many there are.
        mixing: how samples are mixed; None: they are not.
    """

    def __init__(
        self,
        length: int,
        stages: Sequence[Stage],
        *,
        enlarge: int = 1,
        seed: int = 0,
        start: int = 0,
        seen: int = 0,
        rank: int = 0,
        world: int = 1,
        mixing: Mixing | None = None,
    ) -> None:
        self.length, self.epoch_length, self.stages = length, length * enlarge, stages
        self.seed, self.start, self.seen, self.rank, self.world = seed, start, seen, rank, world
        self.mixing = mixing
        self._order = functools.lru_cache(2)(self._permutation)  # a batch may lie in two epochs

    def __iter__(self) -> Iterator[list[Draw | MixedDraw]]:
        iteration, position = self.start, self.seen
        while True:
            stage = stage_at(self.stages, iteration)
            mixed = self.mixing and self.mixing.partners(iteration, stage.batch_size, self.seed)
            for step in range(stage.accumulation(self.world)):
                first = (step * self.world + self.rank) * stage.micro_batch
                batch = []
                for place in range(first, first + stage.micro_batch):
                    draw = self._draw(position + place, stage.gt_size)
                    if mixed:
                        partners, shares = mixed
                        other = self._draw(position + int(partners[place]), stage.gt_size)
                        draw = MixedDraw(draw, other, float(shares[place]))
                    batch.append(draw)
                yield batch
            iteration, position = iteration + 1, position + stage.batch_size

    def _draw(self, sample: int, size: int) -> Draw:
        order = self._order(sample // self.epoch_length)
        return Draw(int(order[sample % self.epoch_length]), (self.seed, sample), size)

    def _permutation(self, epoch: int) -> np.ndarray:
        """The images of an epoch in their order."""
        return np.random.default_rng((self.seed, epoch)).permutation(self.epoch_length) % self.length
