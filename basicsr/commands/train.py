"""Train a network; an interrupted run goes on with --auto_resume.

examples:
    tlc train -opt options/train/Sample/NAFNet-SampleNoise.yml --dry_run
    tlc train -opt options/train/Sample/NAFNet-SampleNoise.yml --auto_resume
    torchrun --nproc_per_node=8 -m basicsr train -opt options/train/GoPro/HINet-GoPro.yml

Weights, curves and log come to lie in experiments/<name>/. `tlc init train` writes options for your own folders.
"""

import argparse

from basicsr.commands import words
from basicsr.commands.parser import Parser


def add_arguments(parser: Parser) -> None:
    words.options_file(parser, text="options/train")
    parser.add_argument("--auto_resume", action="store_true", help="go on from the latest state of the run of this name")
    parser.add_argument("--dry_run", action="store_true", help="check everything and print the plan; nothing is written")
    words.device(parser)
    words.force_yml(parser)
    words.launcher(parser)


def run(args: argparse.Namespace) -> int:
    from basicsr.engine.training.fit import fit
    from basicsr.options import load
    from basicsr.utils import dist

    dist.start(args.launcher, args.local_rank)
    opt = dist.together(lambda: load(args.opt, words.as_overrides(args)))
    code = fit(opt, auto_resume=args.auto_resume, dry_run=args.dry_run)
    dist.stop()
    return code
