"""Write a network as a file that runs without this toolbox, TLC inside, and check it against PyTorch.

examples:
    tlc export -opt options/test/Sample/NAFNetLocal-SampleNoise.yml
    tlc export --weights experiments/pretrained_models/NAFNet-SampleNoise.safetensors --output denoise.onnx
    tlc export -opt options/test/GoPro/RestormerLocal-GoPro.yml --format torchscript --precision fp16

onnx (the default) is run by ONNX Runtime, torchscript by torch.jit.load, torch by torch.export.load. The input `lq` and the
output `restored` are images (N, 3, H, W) in [0, 1], RGB, float32, of any number and size (torch: sides from 32 to 16384); a
network for grey pictures or two views has its own number of channels.
Nothing is written unless the file's network agrees with PyTorch's.
"""

import argparse
from pathlib import Path

from basicsr.commands import words
from basicsr.commands.parser import Parser, width_x_height

FORMATS = ("onnx", "torchscript", "torch")
PRECISIONS = ("fp32", "fp16")
SIZES = ((64, 64), (128, 96), (83, 101))  # width, height


def add_arguments(parser: Parser) -> None:
    words.options_file(parser, required=False, text="options/test; with the network and its weights")
    words.weights(parser)
    words.tlc(parser, ("on", "off"))
    words.windows(parser)
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: results/export/<name>.{onnx,pt,pt2}")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="of weights and arithmetic (default: %(default)s)"
    )
    default = " ".join(f"{width}x{height}" for width, height in SIZES)
    parser.add_argument(
        "--sizes", nargs="+", type=width_x_height, default=SIZES, metavar="WxH", help=f"to compare at (default: {default})"
    )
    words.force_yml(parser)


def run(args: argparse.Namespace) -> int:
    from basicsr.engine.run_export import run_export

    sizes = [(height, width) for width, height in args.sizes]
    opt = words.network_options(argparse.Namespace(**{**vars(args), "precision": None}))  # it is the file's, not that of val
    opt = words.with_tlc_as_said(opt, args)
    run_export(opt, args.format, args.precision, sizes, args.output)
    return 0
