"""Which samples a training iteration sees: a pure function of the seed and the iteration, whatever the number of processes,
of micro-batches or of workers, and wherever a run was interrupted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset, Sampler

from basicsr.utils.seed import seed_everything


class Draw(NamedTuple):
    """The index of a training sample: which image, the seed of its crop and flips, the side of the crop."""

    number: int
    seed: tuple[int, int]
    size: int


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

    def __getitem__(self, draw: Draw) -> dict:
        seed_everything(*draw.seed)
        return self.dataset[draw]


class EndlessBatchSampler(Sampler[list[Draw]]):
    """The micro-batches of one process, iteration after iteration, without end.

    Samples are numbered through all epochs, each a new permutation of the images; step by step the next `batch_size` of them
    are dealt out: to the processes first, then to the accumulated micro-batches.

    Args:
        length: number of images. enlarge: how often each stands in an epoch.
        start, seen: the first iteration and how many samples were drawn before it.
        rank, world: this process and how many there are.
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
    ) -> None:
        self.length, self.epoch_length, self.stages = length, length * enlarge, stages
        self.seed, self.start, self.seen, self.rank, self.world = seed, start, seen, rank, world

    def __iter__(self) -> Iterator[list[Draw]]:
        iteration, position = self.start, self.seen
        epoch, order = -1, None
        while True:
            stage = stage_at(self.stages, iteration)
            for step in range(stage.accumulation(self.world)):
                first = position + (step * self.world + self.rank) * stage.micro_batch
                batch = []
                for sample in range(first, first + stage.micro_batch):
                    if sample // self.epoch_length != epoch:
                        epoch = sample // self.epoch_length
                        order = np.random.default_rng((self.seed, epoch)).permutation(self.epoch_length) % self.length
                    number = int(order[sample % self.epoch_length])
                    batch.append(Draw(number, (self.seed, sample), stage.gt_size))
                yield batch
            iteration, position = iteration + 1, position + stage.batch_size
