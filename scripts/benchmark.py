"""Seconds, memory and arithmetic of the networks, plain and with TLC, by image size and precision.

    python scripts/benchmark.py --nets Restormer --sizes 1280x720
    python scripts/benchmark.py --nets HINet NAFNet --sizes 256x256 640x360 1280x720 --precisions fp32 bf16

Every network has its published size and random weights. A network at one size and precision has a process of its own, in which
its plain and its -Local variant take turns; seconds are the median after a first run, which only warms up where time allows
more. Memory is the peak of that first run beyond the weights. GMACs count convolutions and matrix products of the plain network
(torch's FlopCounterMode, halved); the share is what part of the rate of a large matrix product of that precision they reach.
Run it on an idle machine, and compare numbers of one run only: the table, <output>.json and the picture <output>.png.
"""

import argparse
import gc
import io
import json
import math
import multiprocessing
import platform
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # another package may be installed under the name basicsr

import basicsr  # noqa: F401 - before torch: it says how threads wait and memory is kept

# isort: split

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from basicsr.archs import build_network
from basicsr.environment import return_freed_memory
from basicsr.errors import UserError, did_you_mean
from basicsr.models import ImageRestorationModel
from basicsr.models.prediction import fastest_precision
from basicsr.options import display, resolve
from basicsr.utils.dist import pick_device
from basicsr.utils.image import write_bytes
from basicsr.utils.log import run_entry_point

# The published GoPro networks.
NETS = {
    "HINet": {"hin_position_left": 3, "hin_position_right": 4},
    "MPRNet": {},
    "Restormer": {},
    "NAFNet": {"width": 32},
}
LOCAL = {"train_size": 256, "base_size": 384}
PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "auto")
MATRIX = 2048  # rows of the product whose rate is the machine's
HEAD = ("network", "size", "precision", "seconds", "Local", "ratio", "GMACs", "share", "memory", "Local ")
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class Case:
    """What a process measures."""

    net: str
    size: tuple[int, int]  # width, height
    precision: str
    device: str
    compiled: bool
    channels_last: bool | None
    threads: int
    budget: float  # seconds


@dataclass(frozen=True)
class Timing:
    seconds: float  # median
    runs: tuple[float, ...]
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=list(NETS), help=f"of {', '.join(NETS)} (default: all)")
    parser.add_argument("--sizes", nargs="+", type=_size, default=[(1280, 720)], help="WIDTHxHEIGHT (default: 1280x720)")
    parser.add_argument(
        "--precisions", nargs="+", default=["fp32"], choices=PRECISIONS, help="auto: the device's fastest (default: fp32)"
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu"), help="auto: a GPU if there is one (the default)")
    parser.add_argument(
        "--channels_last", choices=("true", "false"), help="the memory layout (default: what suits device and precision)"
    )
    parser.add_argument("--compile", action="store_true", help="run through torch.compile")
    parser.add_argument("--threads", type=_count, default=torch.get_num_threads(), help="of the CPU (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=90, help="for each network, size and precision (default: %(default)s)")
    parser.add_argument("--output", default="results/benchmark", help="the files <output>.json and .png (default: %(default)s)")
    args = parser.parse_args()
    for net in args.nets:
        if net not in NETS:
            raise UserError(f"--nets {net}: no such network.{did_you_mean(net, NETS)} There are {', '.join(NETS)}.")
    device = pick_device("auto" if args.device == "auto" else 0)
    if "tf32" in args.precisions and device.type != "cuda":
        raise UserError(f"--precisions tf32: {device.type} has no TF32; it is a mode of NVIDIA GPUs.")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_processor()}, {args.threads} threads"
    print(f"{name}; torch {torch.__version__}")
    layout = None if args.channels_last is None else args.channels_last == "true"
    cases = [
        Case(net, size, precision, device.type, args.compile, layout, args.threads, args.seconds)
        for net in args.nets
        for size in args.sizes
        for precision in dict.fromkeys(fastest_precision(device) if word == "auto" else word for word in args.precisions)
    ]
    results = []
    for case in tqdm(cases, unit="case"):
        results.append(_in_a_process(case))
        output = resolve(args.output)  # after each: an interrupted benchmark keeps what it measured
        document = {"device": name, "torch": torch.__version__, "results": [_as_dict(r) for r in results]}
        write_bytes(output.with_suffix(".json"), (json.dumps(document, indent=2) + "\n").encode())
        tqdm.write("\n".join(table(results)[-1:] if len(results) > 1 else table(results)), file=sys.stdout)
    write_bytes(output.with_suffix(".png"), picture(results, name))
    print(f"{display(output.with_suffix('.json'))}, {display(output.with_suffix('.png'))}")
    return 0


def _in_a_process(case: Case) -> Result:
    """`measure` in a process of its own: peak memory never falls, and Linux kills a process that asks for too much."""
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(measure, case).result()
    except BrokenProcessPool:
        width, height = case.size
        return Result(case, gmacs({"type": case.net, **NETS[case.net]}, (height, width)), None, None, None)


def measure(case: Case) -> Result:
    """Seconds and memory of the plain and the local network, taking turns."""
    torch.set_num_threads(case.threads)
    device = pick_device("auto" if case.device != "cpu" else 0)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if case.precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = case.precision == "tf32"
    rate = matrix_rate(device, case.precision)
    width, height = case.size
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    options = {"type": case.net, **NETS[case.net]}
    variants = [options, {**options, "type": f"{case.net}Local", **LOCAL}]
    models, memory, runs, end = [], [], [[], []], time.perf_counter() + case.budget
    for variant, kept in zip(variants, runs, strict=True):
        model, before = _model(variant, case, device), _memory(device)
        models.append(model)
        kept.append(_seconds(model, image, device))
        memory.append(_peak(device, before))
    first = [kept[0] for kept in runs]
    while None not in first and time.perf_counter() + sum(first) < end and len(runs[0]) < 12:
        for model, kept in zip(models, runs, strict=True):
            kept.append(_seconds(model, image, device))
    timings = [
        None if kept[0] is None else Timing(statistics.median(kept[1:] or kept), tuple(kept), peak)
        for kept, peak in zip(runs, memory, strict=True)
    ]
    return Result(case, gmacs(options, (height, width)), rate, *timings)


def _model(options: dict, case: Case, device: torch.device) -> ImageRestorationModel:
    torch.manual_seed(0)
    precision = "fp32" if case.precision == "tf32" else case.precision
    model = ImageRestorationModel(
        build_network(options), device=device, precision=precision, channels_last=case.channels_last, compiled=case.compiled
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


def gmacs(options: dict, size: tuple[int, int]) -> float:
    """Billions of multiplications and additions in convolutions and matrix products, for one image of (height, width)."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_network(options)(torch.empty(1, 3, *size))
    return counter.get_total_flops() / 2e9


def matrix_rate(device: torch.device, precision: str) -> float:
    """GFLOP/s of a large matrix product."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    size = MATRIX if device.type == "cpu" else 4 * MATRIX
    a = torch.randn(size, size, device=device).to(dtype)
    seconds = []
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


def table(results: list[Result]) -> list[str]:
    rows = [HEAD]
    for r in results:
        seconds = [f"{t.seconds:.3g} s" if t else OUT_OF_MEMORY for t in (r.plain, r.local)]
        memory = ["-" if t is None or t.memory is None else f"{t.memory:.2f} GiB" for t in (r.plain, r.local)]
        ratio, share = ("-" if value is None else f"{value:.2f}" for value in (r.ratio, r.share))
        size = f"{r.case.size[0]}x{r.case.size[1]}"
        rows.append((r.case.net, size, r.case.precision, *seconds, ratio, f"{r.gmacs:.0f}", share, *memory))
    widths = (10, 10, 10, 14, 14, 6, 7, 6, 9, 9)
    return ["".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def picture(results: list[Result], device: str) -> bytes:
    """Seconds and memory over the image's size, a PNG file."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    figure.suptitle(f"Cost of an image on {device}", fontsize=10)
    panels = figure.subplots(1, 2)
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.case.net, result.case.precision), []).append(result)
    for axes, value, label in zip(panels, ("seconds", "memory"), ("seconds", "memory beyond the weights, GiB"), strict=True):
        for number, ((net, precision), group) in enumerate(groups.items()):
            for variant, style in (("plain", "o-"), ("local", "x--")):
                points = [(math.prod(r.case.size) / 1e6, getattr(getattr(r, variant), value, None)) for r in group]
                points = sorted(point for point in points if point[1])
                if points:
                    title = f"{net}{'Local' if variant == 'local' else ''} {precision}"
                    axes.plot(*zip(*points, strict=True), style, color=f"C{number}", markersize=5, linewidth=1, label=title)
        axes.set(xscale="log", yscale="log", xlabel="megapixels", ylabel=label)
        axes.grid(alpha=0.3, which="both")
    panels[0].legend(fontsize=7)
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return out.getvalue()


def _as_dict(result: Result) -> dict:
    return {**asdict(result), "ratio": result.ratio, "share": result.share}


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of threads, 1 or more")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 1280x720") from None
    if min(width, height) < 16:
        raise argparse.ArgumentTypeError(f"{text}: sides of 16 pixels or more")
    return width, height


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
