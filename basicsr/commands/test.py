"""Evaluate a network on pairs of images: PSNR, SSIM, with and without TLC.

examples:
    tlc test -opt options/test/GoPro/RestormerLocal-GoPro.yml --tlc both
    tlc test --weights experiments/pretrained_models/NAFNet-SampleNoise.safetensors --gt my/sharp --lq my/noisy --tlc both
    torchrun --nproc_per_node=4 -m basicsr test -opt options/test/GoPro/RestormerLocal-GoPro.yml

Report, figures of every image and tables for a paper come to lie in results/<name>/.
"""

import argparse
from pathlib import Path

from basicsr.commands import words
from basicsr.commands.parser import Parser, positive
from basicsr.errors import UserError


def add_arguments(parser: Parser) -> None:
    words.options_file(parser, required=False)
    words.weights(parser)
    parser.add_argument("--gt", type=Path, metavar="DIR", help="ground truth, instead of -opt: a folder or name.lmdb")
    parser.add_argument("--lq", type=Path, metavar="DIR", help="degraded images, instead of -opt")
    words.tlc(parser)
    words.windows(parser)
    words.running(parser)
    parser.add_argument("--max_images", type=positive, metavar="N", help="only the first images")
    words.force_yml(parser)
    words.launcher(parser)


def run(args: argparse.Namespace) -> int:
    from basicsr.engine.testing.run_test import run_test
    from basicsr.utils import dist

    dist.start(args.launcher, args.local_rank)
    run_test(dist.together(lambda: _options(args)), tlc=args.tlc)
    dist.stop()
    return 0


def _options(args: argparse.Namespace):
    if args.opt:
        if args.gt or args.lq:
            raise UserError("-opt names the images itself: leave out --gt and --lq, or -opt.")
        return words.load_options(args)
    if not (args.weights and args.gt and args.lq):
        raise UserError("give -opt FILE, or --weights, --gt and --lq.")
    from basicsr.engine.testing.pairs import options_for_pairs

    opt = options_for_pairs(args.weights, args.gt, args.lq, arch=args.net, overrides=words.as_overrides(args))
    return words.with_settings(opt, args)
