"""Measure seconds, memory and arithmetic of networks, plain and with TLC, by image size and precision.

examples:
    tlc benchmark --nets HINet NAFNet --sizes 256x256 640x360 1280x720 --precisions fp32 bf16
    tlc benchmark --nets my_package.my_file:MyNet --train-size 128 --sizes 1280x720
    tlc benchmark -opt options/test/Sample/NAFNetLocal-SampleNoise.yml --sizes 640x360
    tlc benchmark --data photographs/ --gt_size 96 256 --workers 1 2 4

Networks have random weights, and those of --nets their published size. Seconds are the median after a first run of both
variants, memory is the peak of the second beyond the weights, the share is what part of the rate of a large matrix product is
reached. On an NVIDIA GPU there are also: a floor, which no network that runs block by block gets below at the rates of a large
product and a large copy; the shares of both rates (product, copy); the kernels that are launched, and the time spent in them.
Run it on an idle machine, and compare numbers of one run only: the table, <output>.json and the picture <output>.png.
--data measures instead how many training patches a second the data sets deliver.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from basicsr.commands import words
from basicsr.commands.parser import Parser, positive, width_x_height

if TYPE_CHECKING:
    import torch

    from basicsr.engine.benchmark.results import Case, Result

# The published GoPro networks.
NETS = {
    "HINet": {"hin_position_left": 3, "hin_position_right": 4},
    "MPRNet": {},
    "Restormer": {},
    "NAFNet": {"width": 32},
}
SMALLEST = 16  # pixels


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--nets", nargs="+", default=list(NETS), metavar="NET", help=f"default: {' '.join(NETS)}")
    words.options_file(parser, required=False, text="options/test; its network instead of --nets")
    words.windows(parser)
    parser.add_argument("--sizes", nargs="+", type=_size, default=[(1280, 720)], metavar="WxH", help="default: 1280x720")
    parser.add_argument(
        "--precisions", nargs="+", default=["fp32"], choices=words.PRECISIONS, help="auto: the device's fastest (default: fp32)"
    )
    words.device(parser)
    parser.add_argument("--channels_last", choices=("true", "false"), help="memory layout (default: what suits)")
    parser.add_argument("--compile", action="store_true", help="run through torch.compile where that is faster")
    parser.add_argument("--threads", type=positive, metavar="N", help="of the CPU (default: torch's)")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="for each case (default: 90, on an NVIDIA GPU 3; with --data 6)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("results/benchmark"), metavar="PATH", help="of .json, .png (default: %(default)s)"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of sharp photographs: measure data sets instead")
    parser.add_argument(
        "--gt_size", nargs="+", type=positive, default=[96, 256], metavar="N", help="patches of --data (96 256)"
    )
    parser.add_argument("--workers", nargs="+", type=positive, default=[1, 2], metavar="N", help="processes of --data (1 2)")
    parser.add_argument("--batch_size", type=positive, default=8, metavar="N", help="patches a batch of --data (8)")


def run(args: argparse.Namespace) -> int:
    if args.data:
        from basicsr.engine.benchmark.data import table

        for line in table(args.data, args.gt_size, args.workers, args.batch_size, args.seconds or 6):
            print(line, flush=True)
        return 0
    return _networks(args)


def _networks(args: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from basicsr.engine.benchmark.measure import processor
    from basicsr.engine.benchmark.results import as_dict
    from basicsr.engine.benchmark.show import picture, table
    from basicsr.options import display
    from basicsr.utils.dist import pick_device
    from basicsr.utils.files import require_writable, write_bytes

    require_writable(args.output.parent)
    device = pick_device(words.gpus(args.device) if args.device else "auto")
    threads = args.threads or torch.get_num_threads()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{processor()}, {threads} threads"
    cases = _cases(args, device, threads)
    print(f"{name}; torch {torch.__version__}")
    output, results = args.output, []
    for result in tqdm(_measured(cases, device), total=len(cases), unit="case"):
        results.append(result)
        # After each: an interrupted benchmark keeps what it measured.
        document = {"device": name, "torch": torch.__version__, "results": [as_dict(r) for r in results]}
        write_bytes(output.with_suffix(".json"), (json.dumps(document, indent=2) + "\n").encode())
        tqdm.write("\n".join(table(results)[-1:] if len(results) > 1 else table(results)), file=sys.stdout)
    write_bytes(output.with_suffix(".png"), picture(results, name))
    print(f"{display(output.with_suffix('.json'))}, {display(output.with_suffix('.png'))}")
    return 0


def _measured(cases: "Sequence[Case]", device: "torch.device") -> "Iterator[Result]":
    from basicsr.engine.benchmark import measure, meters

    if device.type == "cuda":
        return measure.in_this_process(cases, meters.meter_for(device))
    return map(measure.in_a_process, cases)


def _cases(args: argparse.Namespace, device: "torch.device", threads: int) -> "list[Case]":
    """What is to be measured; every network is built once without its arithmetic, so that mistakes are found now."""
    from basicsr.archs import with_tlc, with_words
    from basicsr.engine.benchmark.floor import work_of
    from basicsr.engine.benchmark.results import Case
    from basicsr.models.precision import precision_for
    from basicsr.options import load, resolve

    modules: tuple[Path, ...] = ()
    if args.opt:
        opt = load(args.opt)
        networks, modules = [opt.network_g.as_dict()], tuple(resolve(file) for file in opt.custom_modules or ())
    else:
        networks = [{"type": name, **NETS.get(name, {})} for name in args.nets]
    layout = None if args.channels_last is None else args.channels_last == "true"
    precisions = dict.fromkeys(precision_for(word, device).name for word in args.precisions)
    cases = []
    for network in networks:
        plain = with_tlc(network, False)
        local = with_words(network, **words.settings(args))
        for options in (plain, local):
            work_of(options, (64, 64))
        for size in args.sizes:
            for precision in precisions:
                budget = args.seconds or (3 if device.type == "cuda" else 90)
                cases.append(Case(plain, local, size, precision, device.type, args.compile, layout, threads, budget, modules))
    return cases


def _size(text: str) -> tuple[int, int]:
    size = width_x_height(text)
    if min(size) < SMALLEST:
        raise argparse.ArgumentTypeError(f"{text}: sides of {SMALLEST} pixels or more")
    return size
