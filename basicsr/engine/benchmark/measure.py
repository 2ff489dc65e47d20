"""Seconds, memory and arithmetic of a network, plain and with TLC, at a size and a precision.

A case is measured in a process of its own, in which the plain and the -Local variant take turns. A first run of each warms up:
it sets up what libraries keep for the whole process, which the variant that comes first would pay for. Seconds are the median
of the runs after it, memory is the peak of the first one of these beyond the weights. GMACs count
convolutions and matrix products of the plain network (torch's FlopCounterMode, halved); the share is what part of the rate of a
large matrix product of that precision they reach.
"""

import gc
import multiprocessing
import platform
import statistics
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from basicsr.archs import build_network, plain_name
from basicsr.custom import import_file
from basicsr.environment import return_freed_memory
from basicsr.models import ImageRestorationModel
from basicsr.models.precision import precision_for
from basicsr.utils.dist import pick_device

MATRIX = 2048  # rows of the product whose rate is the machine's


@dataclass(frozen=True)
class Case:
    """What a process measures."""

    plain: Mapping[str, Any]  # options of the network, without TLC and
    local: Mapping[str, Any]  # with it
    size: tuple[int, int]  # width, height
    precision: str
    device: str
    compiled: bool
    channels_last: bool | None
    threads: int
    budget: float  # seconds
    modules: tuple[Path, ...] = ()  # files of the user's that register the network

    @property
    def label(self) -> str:
        return plain_name(self.plain["type"])


@dataclass(frozen=True)
class Timing:
    seconds: float  # median
    runs: tuple[float, ...]  # the first one warms up
    memory: float | None  # GiB beyond the weights; None where the system does not tell


@dataclass(frozen=True)
class Result:
    case: Case
    gmacs: float
    matrix_rate: float | None  # GFLOP/s
    plain: Timing | None  # None: out of memory
    local: Timing | None

    @property
    def ratio(self) -> float | None:
        return self.local.seconds / self.plain.seconds if self.plain and self.local else None

    @property
    def share(self) -> float | None:
        return 2 * self.gmacs / self.plain.seconds / self.matrix_rate if self.plain else None


def in_a_process(case: Case) -> Result:
    """`measure` in a process of its own: peak memory never falls, and Linux kills a process that asks for too much."""
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(measure, case).result()
    except BrokenProcessPool:
        return Result(case, gmacs(case.plain, case.size[::-1]), None, None, None)


def measure(case: Case) -> Result:
    """Seconds and memory of the plain and the local network, taking turns."""
    torch.set_num_threads(case.threads)
    warnings.simplefilter("ignore")  # what there is to say of a network was said before its process began
    for file in case.modules:
        import_file(file, str(file))
    device = pick_device("auto" if case.device != "cpu" else 0)
    rate = matrix_rate(device, case.precision)
    width, height = case.size
    end = time.perf_counter() + case.budget
    models = [_model(variant, case, device) for variant in (case.plain, case.local)]
    channels = getattr(models[0].net, "in_channels", 3)
    image = torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(0))
    runs = [[_seconds(model, image, device)] for model in models]
    memory: list[float | None] = [None, None]
    for number, (model, kept) in enumerate(zip(models, runs, strict=True)):
        if kept[0] is not None:
            before = _memory(device)
            kept.append(_seconds(model, image, device))
            memory[number] = _peak(device, before)
    fit = [kept for kept in runs if None not in kept]
    while len(fit) == len(runs) and time.perf_counter() + sum(kept[-1] for kept in runs) < end and len(runs[0]) < 12:
        for model, kept in zip(models, runs, strict=True):
            kept.append(_seconds(model, image, device))
    timings = [
        None if None in kept else Timing(statistics.median(kept[1:]), tuple(kept), peak)
        for kept, peak in zip(runs, memory, strict=True)
    ]
    return Result(case, gmacs(case.plain, (height, width)), rate, *timings)


def _model(options: Mapping[str, Any], case: Case, device: torch.device) -> ImageRestorationModel:
    torch.manual_seed(0)
    model = ImageRestorationModel(
        build_network(options),
        device=device,
        precision=case.precision,
        channels_last=case.channels_last,
        compiled=case.compiled,
    )
    gc.collect()
    return model


def _seconds(model: ImageRestorationModel, image: torch.Tensor, device: torch.device) -> float | None:
    """Seconds of one prediction on the device; None when memory is out."""
    on_device = image.to(device)
    start = time.perf_counter()
    try:
        model.predict(on_device)
        if device.type == "cuda":
            torch.cuda.synchronize()
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error).lower():
            raise
        return None
    return time.perf_counter() - start


def gmacs(options: Mapping[str, Any], size: tuple[int, int]) -> float:
    """Billions of multiplications and additions in convolutions and matrix products, for one image of (height, width)."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        net = build_network(options)
        net(torch.empty(1, getattr(net, "in_channels", 3), *size))
    return counter.get_total_flops() / 2e9


def matrix_rate(device: torch.device, precision: str) -> float:
    """GFLOP/s of a large matrix product."""
    chosen, seconds = precision_for(precision, device), []
    size = MATRIX if device.type == "cpu" else 4 * MATRIX
    a = torch.randn(size, size, device=device).to(chosen.dtype)
    with chosen.arithmetic(device):
        for _ in range(6):
            start = time.perf_counter()
            (a @ a)[0, 0].item()  # waits for a GPU
            seconds.append(time.perf_counter() - start)
    return 2e-9 * size**3 / min(seconds[1:])


def _memory(device: torch.device) -> float | None:
    """GiB in use; the peak counts from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**30
    return_freed_memory()  # what another variant has left would be taken again, and not be counted
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is in use now
        return _status("VmRSS")
    except OSError:
        return None


def _peak(device: torch.device, before: float | None) -> float | None:
    if before is None:
        return None
    return (torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else _status("VmHWM")) - before


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 2**20


def processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
