"""The training's batches, from workers that may die: which samples come is a function of the iteration, so new ones go on."""

import errno
import logging
import os
import re
import signal
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from basicsr.data.sampler import EndlessBatchSampler, Mixing, SeededDataset, Stage, stage_at
from basicsr.errors import UserError
from basicsr.utils import dist
from basicsr.utils.parallel import end_with_parent

logger = logging.getLogger("basicsr")
DEATHS = 3  # in one step, until that is more than bad luck


class TrainLoader:
    """The micro-batches of this process, step by step; workers start with the first one.

    Args:
        dataset: indexed by `Draw`. enlarge: how often each image stands in an epoch.
        mixing: how samples are mixed; None: they are not.
        workers: processes that load; 0: this one does. pin: for copies to a GPU.
    """

    def __init__(
        self,
        dataset: Dataset,
        stages: Sequence[Stage],
        *,
        seed: int,
        enlarge: int = 1,
        mixing: Mixing | None = None,
        workers: int = 0,
        pin: bool = False,
    ) -> None:
        self.dataset, self.stages, self.seed, self.mixing = dataset, stages, seed, mixing
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
            try:
                if self.batches is None:
                    self.batches = self._start(iteration, seen)
                return [self._next(keep=count > 1) for _ in range(count)]
            except (RuntimeError, OSError, EOFError) as error:
                if want := _want(error):
                    raise UserError(f"datasets.train: {want}") from None
                if not self._is_death(error):
                    raise
                logger.warning("A data worker died at iteration %d; new ones start.", iteration)
                logger.debug("%s: %s", type(error).__name__, error)
                self.batches = None
        raise UserError(
            "datasets.train: data workers died again and again, most likely for want of memory; lower num_worker_per_gpu."
        )

    def _next(self, keep: bool) -> dict[str, Any]:
        """A micro-batch; `keep`: others are asked for before it is used.

        What workers hand over lies in shared memory, a file held open for each tensor, so what is kept is copied: a large
        global batch on few devices would come to the limit of open files.
        """
        batch = next(self.batches)
        if not keep or self.workers == 0 or self.pin:  # pinned memory is a copy already
            return batch
        return {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in batch.items()}

    def _is_death(self, error: Exception) -> bool:
        """Of a worker: torch noticed it, or the connection broke, or was not there, over which it handed its batch.

        What the data set raises in a worker is passed on with other words.
        """
        if isinstance(error, RuntimeError):
            return "DataLoader worker (pid" in str(error)
        connection = isinstance(error, (ConnectionError, FileNotFoundError, EOFError))
        return connection and self.workers > 0 and "in DataLoader worker process" not in str(error)

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
            mixing=self.mixing,
        )
        if (limit := _open_files()) is not None and limit < 24 + 3 * self.workers:  # a queue and a pipe for each
            raise OSError(errno.EMFILE, "Too many open files")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores: the user's choice
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


def _open_files() -> int | None:
    """How many files a process may have open; None where the system has no such limit."""
    if resource is None:
        return None
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _want(error: Exception) -> str | None:
    """What the machine has too little of, in a sentence; None where it is something else."""
    text = str(error)
    numbers = (errno.EMFILE, errno.ENFILE)
    if getattr(error, "errno", None) in numbers or "Too many open files" in text or "ancillary data" in text:
        return "data workers need more open files than this shell allows; raise `ulimit -n`, or lower num_worker_per_gpu."
    if re.search(r"(shared memory|/torch_|/dev/shm).*No space left", text, re.DOTALL):
        return "shared memory (/dev/shm) is full; give the machine more (docker: --shm-size), or lower num_worker_per_gpu."
    return None


def _start_worker(worker: int) -> None:
    end_with_parent()  # torch would notice after some seconds, until when the folder's lock, inherited, is held
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the loop's business,
    if hasattr(os, "setpgrp"):  # and so is a SIGTERM that goes to the whole process group
        os.setpgrp()
