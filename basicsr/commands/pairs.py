"""Make training and validation pairs from sharp photographs: degrade them, hold some out, cut crops.

examples:
    tlc pairs --input my_photographs --output datasets/Mine --kind noise --val 5
    tlc pairs --input my_photographs --output datasets/Mine --kind blur --val holiday1 holiday2

Writes crops of 192 to <output>/train/{target,input_<kind>} and of 480 to <output>/val/{target,input_<kind>}. A second run makes
the same crops again; crops of other settings, or another choice of photographs to validate on, are refused.
"""

import argparse
from pathlib import Path

from basicsr.commands import words
from basicsr.commands.parser import Parser, positive


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--input", required=True, type=Path, metavar="DIR", help="folder of sharp photographs")
    parser.add_argument("--output", type=Path, default=Path("datasets/Sample"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--kind", choices=("noise", "blur"), default="noise", help="default: %(default)s")
    parser.add_argument(
        "--val", nargs="+", required=True, metavar="NAME", help="photographs to validate on, without suffix, or how many"
    )
    parser.add_argument(
        "--crop", type=positive, default=192, metavar="N", help="side of the training crops (default: %(default)s)"
    )
    parser.add_argument(
        "--val_crop",
        type=positive,
        metavar="N",
        help="side of the validation crops (default: 480, or what the photographs have)",
    )
    parser.add_argument("--seed", type=int, default=100, metavar="N", help="default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="remove the crops that are there, also of other settings")
    words.workers(parser)


def run(args: argparse.Namespace) -> int:
    from basicsr.engine.preparing.pairs import make_pairs

    names = ("kind", "val", "crop", "val_crop", "seed", "workers", "overwrite")
    for line in make_pairs(args.input, args.output, **{name: getattr(args, name) for name in names}):
        print(line)
    return 0
