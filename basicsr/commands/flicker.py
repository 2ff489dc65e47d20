"""Measure how steady restored videos are: plain, in patches, and with TLC.

examples:
    tlc flicker --weights experiments/pretrained_models/NAFNet-SampleBlur.safetensors --lq clips/blurry --gt clips/sharp
    tlc flicker --weights experiments/pretrained_models/NAFNet-SampleBlur.safetensors --lq clip.mp4
    tlc flicker -opt options/test/GoPro/RestormerLocal-GoPro.yml --max_images 20

Clips are videos, or folders of frames whose names differ in their last number alone, such as 000_00000009.png or 001/12.png.
Flicker is what changes from frame to frame beyond what moved. Table, report.json and a picture of each clip come to lie in
results/flicker_<name>/, with --force_yml val:save_img=true the restored frames as well.
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
    words.windows(parser)
    words.running(parser)
    parser.add_argument("--max_images", type=positive, metavar="N", help="only the first frames of each clip")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: results/flicker_<name>")
    words.force_yml(parser)


def run(args: argparse.Namespace) -> int:
    from basicsr.engine.flicker.run_flicker import run_flicker
    from basicsr.options import resolve_input
    from basicsr.utils.video import is_video

    lq, gt = ([resolve_input(path) for path in side or ()] for side in (args.lq, args.gt))
    films = [path for path in (*lq, *gt) if is_video(path)]
    if films and len(films) < len(lq) + len(gt):
        other = next(path for path in (*lq, *gt) if path not in films)
        raise UserError(f"--lq and --gt: {films[0]} is a video and {other} is not; give videos alone, or folders alone.")
    if films and not lq:
        raise UserError(f"--gt {films[0]}: name the degraded video with --lq.")
    opt = words.network_options(args) if films else words.pairs_options(args)
    if args.output is not None and args.output.is_file():
        raise UserError(f"--output {args.output}: is a file; name a folder.")
    return run_flicker(opt, args.output, *((lq, gt) if films else ()))
