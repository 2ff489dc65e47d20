"""Convert weights between .pth and .safetensors, or list those that are at hand, with what they say of themselves.

examples:
    tlc weights list
    tlc weights convert experiments/MyNet/models/net_g_9000.pth MyNet.safetensors

    tlc weights convert Restormer-GoPro.pth Restormer-GoPro.safetensors --train-size 256 --window 384

Whatever the weights are wrapped in is found; a .pth is written in BasicSR's wrapper, {"params": state dict}. What weights say
of themselves is kept: their network, the patches that it was trained on, and the window of TLC that suits it.
"""

import argparse
from pathlib import Path

from basicsr.commands import words
from basicsr.commands.parser import Parser
from basicsr.errors import UserError

SUFFIXES = (".pth", ".safetensors")
FOLDER = "experiments/pretrained_models"
TRAINED = "experiments/*/models/net_g_{}.pth"


def add_arguments(parser: Parser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="in experiments/pretrained_models, bundled, and of your own trainings")
    convert = actions.add_parser("convert", help="from .pth to .safetensors or back")
    convert.add_argument("input", type=Path, metavar="INPUT", help="a checkpoint")
    convert.add_argument("output", type=Path, metavar="OUTPUT", help="name.pth or name.safetensors")
    convert.add_argument("--param_key", metavar="KEY", help="the wrapper's key; found by itself when left out")
    words.windows(convert)


def run(args: argparse.Namespace) -> int:
    return {"list": _list, "convert": _convert}[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from basicsr.options import BUNDLED, display, resolve
    from basicsr.paths import guide

    folders = dict.fromkeys([resolve(FOLDER), BUNDLED / FOLDER])
    files = [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir()) if file.suffix in SUFFIXES]
    files += sorted(file for label in ("best", "latest") for file in resolve(".").glob(TRAINED.format(label)))
    if not files:
        page = guide(f"{FOLDER}/README.md")
        raise UserError(f"there are no weights in {resolve(FOLDER)}; put published ones there, see {page}.")
    for file in files:
        print(f"{file.stat().st_size / 1e6:8.1f} MB  {display(file)}{_about(file)}")
    return 0


def _about(file: Path) -> str:
    """'  NAFNet, trained on 96x96', as far as the weights say it."""
    from basicsr.engine.weights import about

    try:
        said = about(file)
    except UserError as error:  # what else there is, is listed all the same
        return f"  {error}"
    words = [str(said.network["type"])] if said.network else []
    words += [f"trained on {said.train_size}x{said.train_size}"] if said.train_size else []
    return f"  {', '.join(words)}" if words else ""


def _convert(args: argparse.Namespace) -> int:
    from basicsr.utils.checkpoint import read_metadata, read_weights, save_weights

    if args.output.suffix not in SUFFIXES:
        raise UserError(f"{args.output}: the name must end in .pth or .safetensors.")
    weights = read_weights(args.input, args.param_key)
    save_weights(args.output, weights, read_metadata(args.input) | _said(args))
    print(f"{len(weights)} tensors in {args.output}")
    return 0


def _said(args: argparse.Namespace) -> dict[str, str]:
    said = {"train_size": args.train_size, "base_size": args.window}
    return {word: str(size) for word, size in said.items() if size is not None}
