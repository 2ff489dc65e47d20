"""Bring the unpacked archive of a published data set into the toolbox's layout.

examples:
    tlc prepare gopro --input GOPRO_Large
    tlc prepare hide --input HIDE_dataset
    tlc prepare reds --input REDS --link

gopro: {train,test}/<clip>/{blur,sharp}/000001.png become {train,test}/{input,target}/<clip>-000001.png; `blur_gamma` is left
out, as papers use `blur`. hide: test/{test-close-ups,test-long-shot}/x.png and GT/x.png become test/{input,target}/x.png.
reds: val/val_blur_jpeg/000/00000009.jpg and val/val_sharp/000/00000009.png become val/{blur_300,sharp_300}/000_00000009.*, the
frames whose number ends in 9, and LMDBs of them; train becomes train/{blur_jpeg,sharp}, all frames. Safe to run twice.
"""

import argparse
from importlib import import_module
from pathlib import Path

from basicsr.commands import words
from basicsr.commands.parser import Parser
from basicsr.errors import UserError

OUTPUTS = {"gopro": "datasets/GoPro", "hide": "datasets/HIDE", "reds": "datasets/REDS"}


def add_arguments(parser: Parser) -> None:
    parser.add_argument("dataset", choices=list(OUTPUTS), help="which one")
    parser.add_argument("--input", required=True, type=Path, metavar="DIR", help="the unpacked archive")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: datasets/{GoPro,HIDE,REDS}")
    parser.add_argument("--link", action="store_true", help="link the files instead of copying them; keep the archive then")
    words.workers(parser)


def run(args: argparse.Namespace) -> int:
    module = import_module(f"basicsr.engine.preparing.{args.dataset}")
    if not args.input.is_dir():
        raise UserError(f"--input: the folder {args.input} does not exist; give the unpacked archive.")
    output = args.output or Path(OUTPUTS[args.dataset])
    for line in module.prepare(args.input, output, link=args.link, workers=args.workers):
        print(line)
    return 0
