"""Write an options file for your own folders, with a comment at every word.

examples:
    tlc init train --gt my/sharp --lq my/blurry --net NAFNet
    tlc init train --gt my/sharp --lq my/blurry --val-gt my/val/sharp --val-lq my/val/blurry --net Restormer --output mine.yml
    tlc init train --gt my/photos --degradation noise --net NAFNet
    tlc init test --gt my/sharp --lq my/noisy --weights experiments/pretrained_models/NAFNet-SampleNoise.safetensors

The pictures are checked first. Training takes the net's published recipe, with crops that fit into the smallest picture.
Without --lq the sharp photographs are degraded on the fly. A test of degraded pictures alone, without --gt, writes what it
restores. Nothing is written over a file.
"""

import argparse
from pathlib import Path

from basicsr.commands import words
from basicsr.commands.parser import Parser
from basicsr.errors import UserError

KINDS = ("noise", "blur")


def add_arguments(parser: Parser) -> None:
    tasks = parser.add_subparsers(dest="task", metavar="TASK", required=True)
    train = tasks.add_parser("train", help="options of a training")
    train.add_argument("--net", "--arch", required=True, metavar="NAME", help="network, such as NAFNet")
    test = tasks.add_parser("test", help="options of a test of weights")
    words.weights(test)
    for task in (train, test):
        task.add_argument(
            "--gt",
            nargs="+",
            type=Path,
            required=task is train,
            default=[],
            metavar="DIR",
            help="sharp pictures: a folder or name.lmdb",
        )
        task.add_argument("--lq", nargs="+", type=Path, default=[], metavar="DIR", help="their degraded copies")
        task.add_argument("--degradation", choices=KINDS, help="without --lq: what is put on the sharp ones (noise)")
        task.add_argument("--output", type=Path, metavar="FILE", help="the file to write (default: <net>-<folder>-<task>.yml)")
    train.add_argument(
        "--val-gt", nargs="+", type=Path, default=[], metavar="DIR", help="sharp pictures to validate on, other ones"
    )
    train.add_argument("--val-lq", nargs="+", type=Path, default=[], metavar="DIR", help="their degraded copies")


def run(args: argparse.Namespace) -> None:
    from basicsr.engine.reference.start import Pictures, start_test, start_training

    if args.lq and args.degradation:
        raise UserError("--degradation is for sharp pictures alone: leave out --lq, or --degradation.")
    kind = args.degradation or KINDS[0]
    pictures = Pictures(args.gt, args.lq, kind)
    if args.task == "test":
        if not (args.gt or args.lq):
            raise UserError("name pictures: --gt and --lq, --gt alone (degraded on the fly), or --lq alone (no ground truth).")
        if not args.weights:
            raise UserError("--weights: name the weights to test.")
        print(f"written: {start_test(args.output, args.weights, args.net, pictures)}")
        return
    if args.val_lq and not args.val_gt:
        raise UserError("--val-lq: name the sharp pictures as well, with --val-gt.")
    if args.val_gt and args.lq and not args.val_lq:
        raise UserError("--val-gt: name the degraded pictures as well, with --val-lq, as for training.")
    val = Pictures(args.val_gt, args.val_lq, kind, ("--val-gt", "--val-lq")) if args.val_gt else None
    print(f"written: {start_training(args.output, args.net, pictures, val)}")
