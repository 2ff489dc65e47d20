"""The training's batches, from workers that may die: which samples come is a function of the iteration, so new ones go on."""

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from basicsr.data.sampler import EndlessBatchSampler, SeededDataset, Stage, stage_at
from basicsr.errors import UserError
from basicsr.utils import dist

logger = logging.getLogger("basicsr")
DEATHS = 3  # in one step, until that is more than bad luck


class TrainLoader:
    """The micro-batches of this process, step by step; workers start with the first one.

    Args:
        dataset: indexed by `Draw`. enlarge: how often each image stands in an epoch.
        workers: processes that load; 0: this one does. pin: for copies to a GPU.
    """

    def __init__(
        self, dataset: Dataset, stages: Sequence[Stage], *, seed: int, enlarge: int = 1, workers: int = 0, pin: bool = False
    ) -> None:
        self.dataset, self.stages, self.seed = dataset, stages, seed
        self.enlarge, self.workers, self.pin = enlarge, workers, pin
        self.batches: Iterator[dict[str, Any]] | None = None

    def step(self, iteration: int, seen: int) -> list[dict[str, Any]]:
        """{"lq", "gt": (N, 3, H, W), "name"} of every micro-batch of a step; steps are asked for in their order.

        Args:
            iteration: the step's number. seen: samples drawn before it.

        Raises:
            UserError: a picture that cannot be read; workers that die again and again.
        """
        count = stage_at(self.stages, iteration).accumulation(dist.world_size())
        for _ in range(DEATHS):
            if self.batches is None:
                self.batches = self._start(iteration, seen)
            try:
                return [next(self.batches) for _ in range(count)]
            except (RuntimeError, ConnectionError, FileNotFoundError, EOFError) as error:
                if not self._is_death(error):
                    raise
                logger.warning("A data worker died at iteration %d; new ones start. (%s)", iteration, error)
                self.batches = None
        raise UserError(
            "datasets.train: data workers died again and again, most likely for want of memory; lower num_worker_per_gpu."
        )

    def _is_death(self, error: Exception) -> bool:
        """Of a worker: torch noticed it, or the connection broke, or was not there, over which it handed its batch.

        What the data set raises in a worker is passed on with other words.
        """
        if isinstance(error, RuntimeError):
            return "DataLoader worker (pid" in str(error)
        return self.workers > 0 and "in DataLoader worker process" not in str(error)

    def _start(self, iteration: int, seen: int) -> Iterator[dict[str, Any]]:
        sampler = EndlessBatchSampler(
            len(self.dataset),
            self.stages,
            enlarge=self.enlarge,
            seed=self.seed,
            start=iteration,
            seen=seen,
            rank=dist.rank(),
            world=dist.world_size(),
        )
        batches = iter(
            DataLoader(
                SeededDataset(self.dataset),
                batch_sampler=sampler,
                num_workers=self.workers,
                worker_init_fn=_start_worker,
                pin_memory=self.pin,
            )
        )
        if hasattr(signal, "SIGCHLD"):  # torch's handler would raise anywhere, in the middle of a step; `next` notices as well
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return batches


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the loop's business,
    if hasattr(os, "setpgrp"):  # and so is a SIGTERM that goes to the whole process group
        os.setpgrp()
