"""What happens beside a network while it works: the next images are read, and the last ones measured and saved, by threads."""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from itertools import islice

import numpy as np
import torch
from torch.utils.data import Dataset

from basicsr.data.augment import scaled, to_tensor
from basicsr.data.image_dataset import ImageDataset
from basicsr.errors import UserError
from basicsr.models.inference import Predict

Sample = Mapping[str, torch.Tensor | str]
Group = list[tuple[int, Sample | UserError]]  # by the number of the image: its sample, or why it cannot be read
_READERS, _FINISHERS = 16, 8  # threads before and behind a GPU
_HELD = 512 << 20  # bytes of samples that wait on each side, but for one batch


class Lanes:
    """Beside a network on the CPU, which has the cores: one thread reads the next image, one measures and saves the last.

    Args:
        batch_size: of how many images a group is at most.

    Attributes:
        reading, workers: how many threads read, and how many measure and save.
        depth: how many images may wait for the network, and how many behind it: no more than memory should hold of their size.
        alone: sizes of which the network takes one image at a time, as was found.
    """

    reading = workers = 1

    def __init__(self, batch_size: int = 1) -> None:
        self.batch_size = self.depth = batch_size
        self.alone: set[torch.Size] = set()

    def readers(self, dataset: Dataset) -> int:
        """How many threads read: data sets of one's own need not bear more than one."""
        return self.reading if isinstance(dataset, ImageDataset) else 1

    def groups(self, dataset: Dataset, indices: Sequence[int], pool: Executor) -> Iterator[Group]:
        """Images in their order: those that follow on one another and are of one size, or one alone that cannot be read."""
        group: Group = []
        for index, sample in self._samples(dataset, indices, pool):
            if group and size_of(sample) != size_of(group[0][1]):
                yield group
                group = []
            group.append((index, sample))
            if len(group) == self.batch_size or isinstance(sample, UserError) or size_of(sample) in self.alone:
                yield group
                group = []
        if group:
            yield group

    def _samples(self, dataset: Dataset, indices: Sequence[int], pool: Executor) -> Iterator[tuple[int, Sample | UserError]]:
        """One after the other, while the next are read."""
        coming, ahead = iter(indices), deque()
        while True:
            more = islice(coming, max(0, 1 + self.depth - len(ahead)))
            ahead.extend((index, pool.submit(self.read, dataset, index)) for index in more)
            if not ahead:
                return
            index, reading = ahead.popleft()
            try:
                sample = reading.result()
            except UserError as error:
                sample = error
            else:
                size = sum(part.nbytes for part in sample.values() if isinstance(part, torch.Tensor))
                most = max(self.reading, self.workers)
                self.depth = max(self.batch_size, min(most, _HELD // max(1, size)))
            yield index, sample

    def read(self, dataset: Dataset, index: int) -> Sample:
        """A sample where the network wants it; called in a thread that reads."""
        return dataset[index]

    def behind(self) -> contextlib.AbstractContextManager:
        """Around all that is done with a restored image; entered in the thread that does it."""
        return contextlib.nullcontext()


class GpuLanes(Lanes):
    """Beside a network on a GPU, which leaves the cores to others: several threads on each side.

    Most of their work is to decode files: almost every core may do that, as the threads behind wait for the GPU if they do not
    save. Images come through pinned memory, as bytes where they are such, and are measured, on streams of their own. A thread
    waits for what it has asked for, and keeps its tensors until then, so the network's own stream waits for nobody.
    """

    def __init__(self, device: torch.device, batch_size: int = 1) -> None:
        super().__init__(batch_size)
        self.device = device
        self.reading, self.workers = max(1, min(_READERS, _cores() - 2)), max(1, min(_FINISHERS, _cores() // 2))
        # First at the GPU: it is little that they ask for, and a thread waits for it.
        self.inward, self.outward = (torch.cuda.Stream(device, priority=-1) for _ in range(2))

    def read(self, dataset: Dataset, index: int) -> Sample:
        sample = dataset.unscaled(index) if isinstance(dataset, ImageDataset) else dataset[index]
        with torch.cuda.stream(self.inward):
            try:
                moved = {word: self._moved(word, part) for word, part in sample.items()}
            except torch.cuda.OutOfMemoryError:  # the network has it all, and takes images from the CPU as well
                return {word: to_tensor(part) if _is_array(word, part) else part for word, part in sample.items()}
            self.inward.synchronize()
        return moved

    def _moved(self, word: str, part: torch.Tensor | np.ndarray | str) -> torch.Tensor | str:
        if _is_array(word, part) and part.dtype == np.uint8:
            pixels = torch.from_numpy(np.require(part, requirements="CW"))
            return scaled(pixels.pin_memory().to(self.device, non_blocking=True))
        part = to_tensor(part) if _is_array(word, part) else part
        return part.pin_memory().to(self.device, non_blocking=True) if isinstance(part, torch.Tensor) else part

    @contextlib.contextmanager
    def behind(self) -> Iterator[None]:
        with torch.cuda.stream(self.outward):
            try:
                yield
            finally:
                self.outward.synchronize()


def lanes_for(device: torch.device | None, batch_size: int) -> Lanes:
    """Those of a network on a device; None: unknown."""
    return GpuLanes(device, batch_size) if device is not None and device.type == "cuda" else Lanes(batch_size)


def size_of(sample: Sample | UserError) -> torch.Size | None:
    """(C, H, W) of what is to be restored; None: it cannot be read."""
    return None if isinstance(sample, UserError) else sample["lq"].shape


def timed(predict: Predict, images: torch.Tensor) -> tuple[torch.Tensor, Callable[[], float]]:
    """(N, C, H, W) restored, and what waits until they are and gives the seconds. Images on a GPU are restored meanwhile."""
    if images.is_cuda:
        start, end = (torch.cuda.Event(enable_timing=True, blocking=True) for _ in range(2))  # blocking: who waits, sleeps
        stream = torch.cuda.current_stream(images.device)
        start.record(stream)
        restored = predict(images)
        end.record(stream)

        def wait() -> float:
            end.synchronize()
            return start.elapsed_time(end) / 1000

        return restored, wait
    begin = time.perf_counter()
    restored = predict(images).cpu()  # waits for the device
    seconds = time.perf_counter() - begin
    return restored, lambda: seconds


def _is_array(word: str, part: object) -> bool:
    """Whether it is an image as `ImageDataset.unscaled` gives it."""
    return word in ("lq", "gt") and isinstance(part, np.ndarray)


def on_host(image: torch.Tensor) -> torch.Tensor:
    """The same on the CPU; from a GPU through pinned memory, so that its other work goes on."""
    if not image.is_cuda:
        return image
    host = torch.empty(image.shape, dtype=image.dtype, pin_memory=True)
    host.copy_(image, non_blocking=True)
    torch.cuda.current_stream(image.device).synchronize()
    return host


def _cores() -> int:
    """Of this process, beside the others of its machine."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return count // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
