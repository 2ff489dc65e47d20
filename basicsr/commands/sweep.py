"""Find the window of TLC: measure a network over base_size.

examples:
    tlc sweep -opt options/test/Sample/NAFNetLocal-SampleNoise.yml --max_images 4
    tlc sweep --weights experiments/pretrained_models/NAFNet-SampleNoise.safetensors --gt my/sharp --lq my/noisy

The network runs without TLC (`global`) and with windows of 1 to 4 times its training patch, or those of --windows. The images
are those of the first data set that is not `train`; the first of val.metrics decides. Table, sweep.csv, sweep.json and
sweep.png come to lie in results/sweep_<name>/, anew after every window. Choose the window on validation images: chosen on the
test set, it is tuned on the test set, and the gain reads too high.
"""

import argparse
from pathlib import Path

from basicsr.commands import words
from basicsr.commands.parser import Parser, positive
from basicsr.errors import UserError


def add_arguments(parser: Parser) -> None:
    words.options_file(parser, required=False)
    words.weights(parser)
    words.pairs(parser)
    words.protocol(parser)
    parser.add_argument(
        "--windows", "--base_sizes", nargs="+", type=positive, metavar="PIXELS", help="(default: 1 to 4 training patches)"
    )
    parser.add_argument("--train-size", type=positive, metavar="PIXELS", help="patch that the network was trained on")
    words.selection(parser)
    parser.add_argument("--max_images", type=positive, metavar="N", help="only the first images")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: results/sweep_<name>")
    words.running(parser)
    words.force_yml(parser)


def run(args: argparse.Namespace) -> int:
    from basicsr.engine.testing.sweep import run_sweep
    from basicsr.options import resolve

    opt = words.pairs_options(args)
    folder = args.output or resolve("results") / f"sweep_{opt.name}"
    if folder.is_file():
        raise UserError(f"--output {folder}: is a file; name a folder.")
    sweep = run_sweep(opt, args.windows, args.train_size, folder)
    return 1 if any(point.failed for point in sweep.points) else 0
