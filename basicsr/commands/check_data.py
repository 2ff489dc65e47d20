"""Check a data set file by file and report everything that is wrong with it.

examples:
    tlc check-data --gt datasets/GoPro/test/target --lq datasets/GoPro/test/input
    tlc check-data -opt options/train/Sample/NAFNet-SampleNoise.yml --csv problems.csv

Folders or LMDBs. Every image is decoded to its last pixel, unlike in the quick look at the start of a training. Reported are
missing partners, empty, unreadable and damaged files, pairs of different size or format, images smaller than the crop,
duplicates, degraded images equal to their ground truth and pairs so unlike that they cannot belong together.
Exit codes: 0 clean, 2 problems (or a mistake in the command).
"""

import argparse
import csv
import io
from pathlib import Path

from basicsr.commands import words
from basicsr.commands.parser import Parser, positive
from basicsr.errors import UserError


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--gt", nargs="+", type=Path, metavar="DIR", help="ground truth: a folder or name.lmdb, or several")
    parser.add_argument("--lq", nargs="+", type=Path, metavar="DIR", help="degraded images, likewise, paired in order")
    parser.add_argument(
        "--filename_tmpl", help="a degraded image's name for a ground truth's, such as {}_blur, or {}_* for many"
    )
    parser.add_argument("--filename_tmpl_gt", help="a ground truth's name, where both say more than they share: norain-{}")
    parser.add_argument("--meta_info_file", metavar="FILE", help="list of the pairs, two names a line")
    words.options_file(parser, required=False, text="options/train; its data sets are checked instead")
    parser.add_argument("--crop", type=positive, metavar="N", help="side of the training crops (with -opt: as in the file)")
    parser.add_argument("--min_psnr", type=float, default=8.0, metavar="DB", help="report pairs below (default: %(default)s)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the problems to this file, too")
    words.workers(parser)


def run(args: argparse.Namespace) -> int:
    from basicsr.engine.preparing.check_data import Problem, check
    from basicsr.utils.files import require_writable, write_bytes

    if args.csv:
        require_writable(args.csv.parent)
    sets, problems = _data_sets(args)
    summaries = []
    for data in sets:
        found, summary = check(data, args.workers)
        problems += found
        summaries.append(summary)
    for problem in problems:
        print(f"{problem.data_set}: {problem.problem}: {problem.file}: {problem.detail}")
    for summary in summaries:
        print(summary)
    if args.csv:
        table = io.StringIO()
        csv.writer(table).writerows([Problem._fields, *problems])
        write_bytes(args.csv, table.getvalue().encode())
    return 2 if problems else 0


def _data_sets(args: argparse.Namespace) -> tuple[list, list]:
    """What is to be checked, and problems found on the way."""
    from basicsr.engine.preparing.check_data import in_folders, named_in
    from basicsr.options import load

    settings = {"crop": args.crop, "min_psnr": args.min_psnr}
    if not args.opt:
        words = {word: vars(args)[word] for word in ("filename_tmpl", "filename_tmpl_gt", "meta_info_file")}
        said = {word: value for word, value in words.items() if value is not None}
        return [in_folders(args.gt or (), args.lq or (), said, **settings)], []
    if args.gt or args.lq:
        raise UserError("-opt names the data sets itself; leave out --gt and --lq.")
    sets, problems = named_in(load(args.opt), **settings)
    if not sets and not problems:
        raise UserError(f"-opt: {args.opt} names no data sets.")
    return sets, problems
