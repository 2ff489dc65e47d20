"""Seconds, memory, kernels and rates of a device: `Meter` for CPUs, `Card` for GPUs, by CUDA's own events."""

import gc
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from basicsr.engine.benchmark.results import Kernels
from basicsr.environment import return_freed_memory
from basicsr.models.precision import precision_for

COPIED = 1 << 29  # bytes: many times a cache


class Meter:
    """Of a CPU, and of whatever has no clock of its own."""

    rows = 2048  # of the product whose rate is the device's
    more_warm_ups = 0  # after a first prediction, before any is counted
    first_tells = False  # whether a first prediction shows its memory, and not a later one

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def seconds(self, work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    def memory(self) -> float | None:
        """GiB in use; the peak counts from here. None where the system does not tell."""
        return_freed_memory()  # what another variant has left would be taken again, and not be counted
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is in use now
            return _status("VmRSS")
        except OSError:
            return None

    def peak(self) -> float:
        """GiB, the most since `memory`."""
        return _status("VmHWM")

    def kernels(self, work: Callable[[], object]) -> Kernels | None:
        """What a GPU does for `work`; None where there is none, or where it does not tell."""
        return None

    def product_rate(self, precision: str) -> float:
        """GFLOP/s of a large matrix product: the fastest of some."""
        chosen = precision_for(precision, self.device)
        a = torch.randn(self.rows, self.rows, device=self.device).to(chosen.dtype)
        with chosen.arithmetic(self.device):
            return 2e-9 * self.rows**3 / self._fastest(lambda: (a @ a)[0, 0].item())

    def copy_rate(self) -> float | None:
        """GB/s of a large copy inside the device's memory, read and written; None but on GPUs."""
        return None

    def release(self) -> None:
        """What is not used any more."""
        gc.collect()

    def _fastest(self, work: Callable[[], object]) -> float:
        """Of some runs, without the first."""
        return min([self.seconds(work) for _ in range(6)][1:])


class Card(Meter):
    """Of a GPU with CUDA."""

    rows = 8192
    more_warm_ups = 2  # the second prediction of a size records its CUDA graph,
    first_tells = True  # whose memory PyTorch's allocator takes for free

    def seconds(self, work: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def memory(self) -> float:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**30

    def peak(self) -> float:
        return torch.cuda.max_memory_allocated() / 2**30

    def kernels(self, work: Callable[[], object]) -> Kernels | None:
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            work()
            torch.cuda.synchronize()
        return summed(profiler.events())

    def copy_rate(self) -> float:
        source, target = (torch.empty(COPIED, dtype=torch.uint8, device=self.device) for _ in range(2))
        return 2e-9 * COPIED / self._fastest(lambda: target.copy_(source))

    def release(self) -> None:
        super().release()
        torch.cuda.empty_cache()


def meter_for(device: torch.device) -> Meter:
    return Card(device) if device.type == "cuda" else Meter(device)


def summed(events: Iterable) -> Kernels | None:
    """Of a profile's events those that ran on the GPU; None where it was not allowed to look there."""
    seconds = [event.time_range.elapsed_us() / 1e6 for event in events if event.device_type == DeviceType.CUDA]
    return Kernels(len(seconds), sum(seconds)) if seconds else None


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 2**20
