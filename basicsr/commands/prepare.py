"""Bring the unpacked archive of a published data set into the toolbox's layout.

examples:
    tlc prepare gopro --input GOPRO_Large
    tlc prepare hide --input HIDE_dataset
    tlc prepare reds --input REDS --link
    tlc prepare sidd --input SIDD_Medium_Srgb

gopro: {train,test}/<clip>/{blur,sharp}/000001.png become {train,test}/{input,target}/<clip>-000001.png; `blur_gamma` is left
out, as papers use `blur`. hide: test/{test-close-ups,test-long-shot}/x.png and GT/x.png become test/{input,target}/x.png.
reds: val/val_blur_jpeg/000/00000009.jpg and val/val_sharp/000/00000009.png become val/{blur_300,sharp_300}/000_00000009.*, the
frames whose number ends in 9, and LMDBs of them; train becomes train/{blur_jpeg,sharp}, all frames.

realblur: the pairs of RealBlur_J_test_list.txt and RealBlur_R_test_list.txt become RealBlur_J/test/{input,target}/
scene001_blur_1.png and so on. rain13k: train/{input,target} and test/<set>/{input,target}, without second copies of pictures
and pairs of different sizes. sidd: Data/<scene>/*_NOISY_* and *_GT_* are cut to 512x512 every 384, into
train/{input_crops,gt_crops}. dfwb: {DIV2K,Flickr2K,WaterlooED,BSD400}/* are cut to 512x512 every 416 where both sides are
above 800, and taken whole else. dpdd: train/{inputL,inputR,inputC,target} are cut to 512x512 every 204, without the 30 % of a
scene that are least sharp, and val to 256x256 from the centre, into {train,val}/{inputL,inputR,inputC,target}_crops, 16 bits.
Safe to run twice.
"""

import argparse
from importlib import import_module
from pathlib import Path

from basicsr.commands import words
from basicsr.commands.parser import Parser
from basicsr.errors import UserError

OUTPUTS = {
    "gopro": "datasets/GoPro",
    "hide": "datasets/HIDE",
    "reds": "datasets/REDS",
    "realblur": "datasets",
    "rain13k": "datasets/Rain13k",
    "sidd": "datasets/SIDD",
    "dfwb": "datasets/train/DFWB",
    "dpdd": "datasets/DPDD",
}


def add_arguments(parser: Parser) -> None:
    parser.add_argument("dataset", choices=list(OUTPUTS), help="which one")
    parser.add_argument("--input", required=True, type=Path, metavar="DIR", help="the unpacked archive")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="default: where the options files look for it, such as datasets/GoPro"
    )
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
