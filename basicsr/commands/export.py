"""Write a network as a file that runs without this toolbox, TLC inside, and check it against PyTorch.

examples:
    tlc export -opt options/test/Sample/NAFNetLocal-SampleNoise.yml
    tlc export -opt options/test/GoPro/RestormerLocal-GoPro.yml --format torchscript --precision fp16

onnx (the default) is run by ONNX Runtime, torchscript by torch.jit.load, torch by torch.export.load. The input `lq` and the
output `restored` are images (N, 3, H, W) in [0, 1], RGB, float32, of any number and size (torch: sides from 32 to 16384).
Nothing is written unless the file's network agrees with PyTorch's.
"""

import argparse
import re
from pathlib import Path

from basicsr.commands import words
from basicsr.commands.parser import Parser
from basicsr.errors import UserError

FORMATS = ("onnx", "torchscript", "torch")
PRECISIONS = ("fp32", "fp16")
SIZES = ("64x64", "96x128", "101x83")


def add_arguments(parser: Parser) -> None:
    words.options_file(parser, text="options/test; with the network and its weights")
    words.weights(parser)
    words.windows(parser)
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: results/export/<name>.{onnx,pt,pt2}")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="of weights and arithmetic (default: %(default)s)"
    )
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="HxW", help=f"to compare at (default: {' '.join(SIZES)})")
    words.force_yml(parser)


def run(args: argparse.Namespace) -> int:
    from basicsr.engine.run_export import run_export

    sizes = [_size(text) for text in args.sizes]
    opt = words.load_options(argparse.Namespace(**{**vars(args), "precision": None}))  # it is the file's, not that of val
    run_export(opt, args.format, args.precision, sizes, args.output)
    return 0


def _size(text: str) -> tuple[int, int]:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text):
        raise UserError(f"--sizes {text}: write height x width, such as 96x128.")
    height, width = text.split("x")
    return int(height), int(width)
