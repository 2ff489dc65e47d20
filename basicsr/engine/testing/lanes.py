"""What happens beside a network while it works: the next images are read, and the last ones measured and saved, by threads."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping

import torch
from torch.utils.data import Dataset

from basicsr.data.image_dataset import ImageDataset
from basicsr.models.inference import Predict

Sample = Mapping[str, torch.Tensor | str]
_MOST = 8  # threads on each side of a GPU
_HELD = 512 << 20  # bytes of samples that wait on each side, but for one


class Lanes:
    """Beside a network on the CPU, which has the cores: one thread reads the next image, one measures and saves the last."""

    workers = 1

    def readers(self, dataset: Dataset) -> int:
        """How many threads read: data sets of one's own need not bear more than one."""
        return self.workers if isinstance(dataset, ImageDataset) else 1

    def depth(self, sample: Sample) -> int:
        """How many images of this size may wait for the network, and how many behind it: no more than memory should hold."""
        size = sum(part.nbytes for part in sample.values() if isinstance(part, torch.Tensor))
        return max(1, min(self.workers, _HELD // max(1, size)))

    def read(self, dataset: Dataset, index: int) -> Sample:
        """A sample where the network wants it; called in a thread that reads."""
        return dataset[index]

    def behind(self) -> contextlib.AbstractContextManager:
        """Around all that is done with a restored image; entered in the thread that does it."""
        return contextlib.nullcontext()


class GpuLanes(Lanes):
    """Beside a network on a GPU, which leaves the cores to others: several threads on each side.

    Images come through pinned memory, and are measured, on streams of their own. A thread waits for what it has asked for, and
    keeps its tensors until then, so the network's own stream waits for nobody.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.workers = max(1, min(_MOST, _cores() // 2))
        self.inward, self.outward = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def read(self, dataset: Dataset, index: int) -> Sample:
        sample = dataset[index]
        with torch.cuda.stream(self.inward):
            try:
                moved = {word: self._moved(part) if isinstance(part, torch.Tensor) else part for word, part in sample.items()}
            except torch.cuda.OutOfMemoryError:  # the network has it all, and takes images from the CPU as well
                return sample
            self.inward.synchronize()
        return moved

    def _moved(self, image: torch.Tensor) -> torch.Tensor:
        return image.pin_memory().to(self.device, non_blocking=True)

    @contextlib.contextmanager
    def behind(self) -> Iterator[None]:
        with torch.cuda.stream(self.outward):
            try:
                yield
            finally:
                self.outward.synchronize()


def lanes_for(device: torch.device | None) -> Lanes:
    """Those of a network on a device; None: unknown."""
    return GpuLanes(device) if device is not None and device.type == "cuda" else Lanes()


def timed(predict: Predict, lq: torch.Tensor) -> tuple[torch.Tensor, Callable[[], float]]:
    """(C, H, W) restored, and what waits until it is and gives the seconds. An image on a GPU is restored there, meanwhile."""
    if lq.is_cuda:
        start, end = (torch.cuda.Event(enable_timing=True, blocking=True) for _ in range(2))  # blocking: who waits, sleeps
        stream = torch.cuda.current_stream(lq.device)
        start.record(stream)
        restored = predict(lq[None])[0]
        end.record(stream)

        def wait() -> float:
            end.synchronize()
            return start.elapsed_time(end) / 1000

        return restored, wait
    begin = time.perf_counter()
    restored = predict(lq[None])[0].cpu()  # waits for the device
    seconds = time.perf_counter() - begin
    return restored, lambda: seconds


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
