"""Report what TLC makes of a network: layers, windows, what is left alone and why, and what it costs.

examples:
    tlc convert --weights experiments/pretrained_models/NAFNet-SampleNoise.safetensors
    tlc convert -opt options/test/GoPro/RestormerLocal-GoPro.yml --window 320 --size none
    tlc convert --net my_package.my_file:MyNet --train-size 128 --force_yml network_g:width=32

Nothing is written: test and restore convert by themselves, with --tlc on. The cost is that of one image, by default of twice
the training patch, without and with TLC: seconds of the network alone, and memory beyond the weights.
"""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from basicsr.commands import words
from basicsr.commands.parser import Parser, width_x_height

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 20  # for the cost


def add_arguments(parser: Parser) -> None:
    words.weights(parser)
    words.options_file(parser, required=False)
    words.windows(parser)
    parser.add_argument("--size", type=_size, metavar="WxH", help="of the image whose cost is measured; none: do not measure")
    words.device(parser)
    words.force_yml(parser)


def run(args: argparse.Namespace) -> int:
    from basicsr.archs import with_tlc, with_words
    from basicsr.engine.build import build_net
    from basicsr.engine.networks.summary import known, summary
    from basicsr.engine.weights import weights_of, with_training_patch
    from basicsr.options import resolve

    opt = words.network_options(args)
    network_g, train = opt.network_g.as_dict(), opt.datasets.get("train")
    local = with_words(network_g, **words.settings(args))
    net = build_net(local, opt.path, train)
    report = net.tlc_report
    print(dataclasses.replace(report, training=False))  # no net remains whose mode would matter
    for lines in (summary(report), known(network_g["type"], type(net).__name__)):
        print("\n".join(["", *lines]) if lines else "", end="\n" if lines else "")
    if args.size != "none" and report.converted:
        size = args.size or tuple(2 * side for side in reversed(report.train_size))
        weights = weights_of(opt.path)
        local, _ = with_training_patch(local, weights, train)
        modules = tuple(resolve(file) for file in opt.custom_modules or ())
        print(_cost(with_tlc(network_g, False), local, size, args, modules))
    return 0


def _cost(plain: dict, local: dict, size: tuple[int, int], args: argparse.Namespace, modules: "tuple[Path, ...]") -> str:
    import torch

    from basicsr.engine.benchmark.measure import Case, in_a_process
    from basicsr.utils.dist import pick_device

    device = pick_device(words.gpus(args.device or "auto")).type
    threads = torch.get_num_threads()
    result = in_a_process(Case(plain, local, size, "fp32", device, False, None, threads, SECONDS, modules))
    if result.ratio is None:
        return f"cost of {size[0]}x{size[1]}: there is not enough memory on the {device}; name a smaller --size."
    seconds = f"{result.plain.seconds:.3g} s without TLC, {result.local.seconds:.3g} s with it ({result.ratio:.2f} times)"
    memory = [timing.memory for timing in (result.plain, result.local)]
    held = "" if None in memory else f"; memory {memory[0]:.2f} and {memory[1]:.2f} GiB"
    return f"cost of {size[0]}x{size[1]} on the {device}: {seconds}{held}"


def _size(text: str) -> tuple[int, int] | str:
    return text if text == "none" else width_x_height(text)
