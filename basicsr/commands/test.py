"""Evaluate a network on pairs of images: PSNR, SSIM, with and without TLC.

examples:
    tlc test -opt options/test/GoPro/RestormerLocal-GoPro.yml --tlc both
    tlc test --weights experiments/pretrained_models/NAFNet-SampleNoise.safetensors --gt my/sharp --lq my/noisy --tlc both
    torchrun --nproc_per_node=4 -m basicsr test -opt options/test/GoPro/RestormerLocal-GoPro.yml

Report, figures of every image and tables for a paper come to lie in results/<name>/.
"""

import argparse

from basicsr.commands import words
from basicsr.commands.parser import Parser, positive


def add_arguments(parser: Parser) -> None:
    words.options_file(parser, required=False)
    words.weights(parser)
    words.pairs(parser)
    words.protocol(parser)
    words.tlc(parser)
    words.windows(parser)
    words.running(parser)
    parser.add_argument("--max_images", type=positive, metavar="N", help="only the first images")
    parser.add_argument("--resume", action="store_true", help="go on with a run of this name that was cut short")
    words.force_yml(parser)
    words.launcher(parser)


def run(args: argparse.Namespace) -> int:
    from basicsr.engine.testing.run_test import run_test
    from basicsr.utils import dist

    dist.start(args.launcher, args.local_rank)
    report = run_test(dist.together(lambda: words.pairs_options(args)), tlc=args.tlc, resume=args.resume)
    dist.stop()
    return 1 if any(run["failed"] for run in report.get("runs", ())) else 0
