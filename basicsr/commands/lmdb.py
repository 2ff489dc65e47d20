"""Pack a folder of images into an LMDB in BasicSR's layout.

examples:
    tlc lmdb --input REDS/val/blur_300 --output datasets/REDS/val/blur_300.lmdb

The files' bytes are kept as they are. Every file is decoded first, so a damaged one is found now and not in training, and
every entry is read back and compared at the end. An interrupted run goes on when the same command is given again; a finished
LMDB is compared with the folder and left as it is.
"""

import argparse
from pathlib import Path

from basicsr.commands import words
from basicsr.commands.parser import Parser


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--input", required=True, type=Path, metavar="DIR", help="folder of images")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the LMDB, name.lmdb")
    words.workers(parser)


def run(args: argparse.Namespace) -> int:
    from basicsr.data.packing import write_lmdb

    print(f"{write_lmdb(args.input, args.output, workers=args.workers)} images in {args.output}")
    return 0
