"""Seconds, memory and arithmetic of a network, plain and with TLC, at a size and a precision.

The plain and the -Local variant take turns. A first run of each warms up: it sets up what libraries keep for the whole process,
which the variant that comes first would pay for. Seconds are the median of the runs after it, memory is the peak of the first
one of these beyond the weights; on a GPU that of the first run of all, as later ones may be CUDA graphs, whose memory is not
seen. GMACs count convolutions and matrix products of the plain network; the share is what part of the rate of a large matrix
product of that precision they reach.

On a CPU a case has a process of its own. On a GPU all share one, as CUDA and its libraries take seconds to start; seconds are
those between two events on the GPU, kernels those of one more run, which is profiled.
"""

import multiprocessing
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import groupby
from pathlib import Path

import torch
from torch import nn

from basicsr.archs import build_network
from basicsr.custom import import_file
from basicsr.engine.benchmark.floor import Work, work_of
from basicsr.engine.benchmark.meters import Meter, meter_for
from basicsr.engine.benchmark.results import Case, Result, Timing
from basicsr.models import ImageRestorationModel
from basicsr.models.precision import precision_for
from basicsr.utils.dist import pick_device

MOST_RUNS = 12


def in_a_process(case: Case) -> Result:
    """`measure` in a process of its own: peak memory never falls, and Linux kills a process that asks for too much."""
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(measure, case).result()
    except BrokenProcessPool:
        return Result(case, work_of(case.plain, case.size[::-1]).gmacs, None, None, None)


def measure(case: Case) -> Result:
    """In this process, with the user's files, which a fresh one has not imported."""
    for file in case.modules:
        import_file(file, str(file))
    (result,) = in_this_process([case], meter_for(pick_device("auto" if case.device != "cpu" else 0)))
    return result


def in_this_process(cases: Sequence[Case], meter: Meter) -> Iterator[Result]:
    """The cases one after the other; a network is built once for all precisions of a size that follow one another."""
    for _, group in groupby(cases, key=lambda case: (case.plain, case.local, case.size)):
        nets, work = [], None
        for case in group:
            torch.set_num_threads(case.threads)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what there is to say of a network was said before
                nets = nets or [_build(options) for options in (case.plain, case.local)]
                work = work or work_of(case.plain, case.size[::-1])
                result = _measured(case, nets, work, meter)
            if case.compiled:
                torch.compiler.reset()  # it keeps some versions of a forward, and gives up when there are more
            meter.release()
            yield result


def _build(options: dict) -> nn.Module:
    torch.manual_seed(0)
    return build_network(options)


def _measured(case: Case, nets: Sequence[nn.Module], work: Work, meter: Meter) -> Result:
    device, (width, height) = meter.device, case.size
    rate, copy_rate = meter.product_rate(case.precision), meter.copy_rate()
    meter.release()
    image = torch.rand(1, getattr(nets[0], "in_channels", 3), height, width, generator=torch.Generator().manual_seed(0))
    options = {"precision": case.precision, "channels_last": case.channels_last, "compiled": case.compiled}
    models = [ImageRestorationModel(net, device=device, cuda_graphs="auto", **options) for net in nets]  # as `tlc test` has it
    image = image.to(device)
    for model in models:
        model.eval()  # makes the weights that it predicts with, which do not count
    predictions = [partial(model.predict, image) for model in models]
    timings = _take_turns(predictions, meter, case.budget)
    traffic = None
    if copy_rate is not None:
        traffic = work.values * precision_for(case.precision, device).dtype.itemsize / 1e9
    return Result(case, work.gmacs, rate, *timings, traffic, copy_rate)


def _take_turns(predictions: Sequence[Callable[[], object]], meter: Meter, budget: float) -> list[Timing | None]:
    """Of each; None for one whose memory was not enough. budget: seconds, without the first run of each."""
    first = [_watched(predict, meter) for predict in predictions]
    runs, memory = [[seconds] for seconds, _ in first], [peak for _, peak in first]
    for predict, kept in zip(predictions, runs, strict=True):
        for _ in range(meter.more_warm_ups if kept[0] is not None else 0):
            _seconds(predict, meter)
    end = time.perf_counter() + budget
    for number, (predict, kept) in enumerate(zip(predictions, runs, strict=True)):
        if kept[0] is not None:
            seconds, peak = _watched(predict, meter)
            kept.append(seconds)
            memory[number] = memory[number] if meter.first_tells else peak
    fit = [kept for kept in runs if None not in kept]
    while len(fit) == len(runs) and time.perf_counter() + sum(kept[-1] for kept in runs) < end and len(runs[0]) < MOST_RUNS:
        for predict, kept in zip(predictions, runs, strict=True):
            kept.append(_seconds(predict, meter))
    return [
        None if None in kept else Timing(statistics.median(kept[1:]), tuple(kept), peak, meter.kernels(predict))
        for predict, kept, peak in zip(predictions, runs, memory, strict=True)
    ]


def _watched(predict: Callable[[], object], meter: Meter) -> tuple[float | None, float | None]:
    """Seconds of one prediction, and by how many GiB more were in use at its peak; None where it is not known."""
    before = meter.memory()
    seconds = _seconds(predict, meter)
    return seconds, None if before is None or seconds is None else meter.peak() - before


def _seconds(predict: Callable[[], object], meter: Meter) -> float | None:
    """Of one prediction; None when memory is out."""
    try:
        return meter.seconds(predict)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or any(words in str(error) for words in ("out of memory", "allocate memory"))):
            raise
    meter.release()
    return None


def processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
