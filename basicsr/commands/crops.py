"""Cut the images of a folder into overlapping crops, so that training reads small files.

examples:
    tlc crops --input datasets/GoPro/train/input --output datasets/GoPro/train/input_crops
    tlc crops --input datasets/GoPro/train/target --output datasets/GoPro/train/target_crops

The published recipes cut 512x512 every 256 pixels, the last crop flush with the border: 8 per 720p frame.
Crops are PNG files called <name>_s001.png, <name>_s002.png, ...; run it on the degraded and the sharp folder alike. A second
run cuts what is missing or older than its image; the settings lie beside the crops in `extract_subimages.json`.
"""

import argparse
from pathlib import Path

from basicsr.commands import words
from basicsr.commands.parser import Parser, positive


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--input", required=True, type=Path, metavar="DIR", help="folder of images")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the crops")
    parser.add_argument("--crop_size", type=positive, default=512, metavar="N", help="default: %(default)s")
    parser.add_argument("--step", type=positive, default=256, metavar="N", help="default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="remove the crops that are there, also of other settings")
    words.workers(parser)


def run(args: argparse.Namespace) -> int:
    from basicsr.engine.preparing.crops import extract

    print(extract(args.input, args.output, args.crop_size, args.step, args.workers, overwrite=args.overwrite))
    return 0
