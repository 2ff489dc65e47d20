"""Degrade a folder of sharp photographs by noise or motion blur whose strength varies across each picture.

examples:
    tlc degrade --input photographs/ --output noisy/ --kind noise
    tlc degrade --input photographs/ --output files/ --kind noise --grey 0.25 --chroma 0.25 --jpeg 0.5 --quality 70 98

Writes one 8-bit PNG per picture under the same stem, and the settings beside them in `degrade.json`. The randomness of a
picture follows from the seed and its file name alone, not from the order, the workers or the other files. A second run does
what is left. Exit codes: 0 all done, 1 some pictures failed, 2 a mistake in the command.
"""

import argparse
import sys
from pathlib import Path

from basicsr.commands import words
from basicsr.commands.parser import Parser

# The options of a kind have no default here, so that one which does not belong to the kind is seen and refused.
OF_A_KIND = {
    "cells": (1, "cells of the random field over the height (default 4)"),
    "sigma": (2, "noise: levels of 255 (default 3 60)"),
    "length": (2, "blur: pixels of motion (default 0.5 12)"),
    "noise_sigma": (1, "blur: level of 255 of the noise on top (default 2)"),
    "grey": (1, "noise: probability of the same noise in all colours (default 0)"),
    "chroma": (1, "noise: probability of noise of smooth colours (default 0)"),
    "jpeg": (1, "probability of JPEG compression, 4:2:0 (default 0)"),
    "quality": (2, "of JPEG, 1 to 100 (default 75 98)"),
}


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--input", required=True, type=Path, metavar="DIR", help="folder of sharp pictures")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the degraded ones")
    parser.add_argument("--kind", required=True, choices=("noise", "blur"))
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="do finished pictures again, also those of other settings")
    for name, (count, text) in OF_A_KIND.items():
        shape = {"nargs": 2, "metavar": ("LO", "HI")} if count == 2 else {"metavar": "VALUE"}
        parser.add_argument(f"--{name}", type=float, help=text, **shape)
    words.workers(parser)


def run(args: argparse.Namespace) -> int:
    from basicsr.engine.preparing.degrade import degrade_folder

    said = {name: value for name in OF_A_KIND if (value := getattr(args, name)) is not None}
    before = set() if args.overwrite else set(args.output.glob("*.png"))
    settings = {"kind": args.kind, "seed": args.seed, "workers": args.workers, "overwrite": args.overwrite}
    failed = degrade_folder(args.input, args.output, **settings, **said)
    after = set(args.output.glob("*.png"))
    print(f"{len(after)} pictures in {args.output}: {len(after - before)} made now, {len(after & before)} were there already")
    if failed:
        print(f"{len(failed)} failed, the others are done:", *failed.values(), sep="\n", file=sys.stderr)
    return 1 if failed else 0
