"""Published and bundled weights by name: list and download them; convert between .pth and .safetensors.

examples:
    tlc weights
    tlc weights download NAFNet-GoPro-width32
    tlc restore photo.jpg --weights NAFNet-GoPro-width32
    tlc weights convert experiments/MyNet/models/net_g_9000.pth MyNet.safetensors

    tlc weights convert Restormer-GoPro.pth Restormer-GoPro.safetensors --train-size 256 --window 384

The list also has the weights of your own trainings, with what they say of themselves. A name does wherever weights are wanted;
what is downloaded lies in the user's cache folder, and its SHA-256 is compared at each use.

In a conversion, whatever the weights are wrapped in is found; a .pth is written in BasicSR's wrapper, {"params": state dict}.
What weights say of themselves is kept: their network, the patches that it was trained on, and the window of TLC that suits it.
"""

import argparse
from pathlib import Path

from basicsr.commands import words
from basicsr.commands.parser import Parser
from basicsr.errors import UserError

TRAINED = "experiments/*/models/net_g_{}.pth"


def add_arguments(parser: Parser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    parser.set_defaults(action="list")
    actions.add_parser("list", help="published, bundled, and of your own trainings; what no ACTION does, too")
    download = actions.add_parser("download", help="published ones into the cache folder")
    download.add_argument("names", nargs="+", metavar="NAME", help="as the list has it, or the published file's")
    words.licence(download)
    convert = actions.add_parser("convert", help="from .pth to .safetensors or back")
    convert.add_argument("input", type=Path, metavar="INPUT", help="a checkpoint")
    convert.add_argument("output", type=Path, metavar="OUTPUT", help="name.pth or name.safetensors")
    convert.add_argument("--param_key", metavar="KEY", help="the wrapper's key; found by itself when left out")
    words.windows(convert)


def run(args: argparse.Namespace) -> int:
    return {"list": _list, "download": _download, "convert": _convert}[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from basicsr.engine.weights.known import named
    from basicsr.engine.weights.listing import bundled, table
    from basicsr.engine.weights.store import FOLDER, SUFFIXES
    from basicsr.options import display, resolve

    print("\n".join(table()))
    folder, shown = resolve(FOLDER), bundled()
    files = [file for file in sorted(folder.iterdir()) if file.suffix in SUFFIXES] if folder.is_dir() else []
    files = [file for file in files if file not in shown and not named(file)]
    files += sorted(file for label in ("best", "latest") for file in resolve(".").glob(TRAINED.format(label)))
    print(end="\n" if files else "")
    for file in files:
        print(f"{file.stat().st_size / 1e6:8.1f} MB  {display(file)}{_about(file)}")
    return 0


def _download(args: argparse.Namespace) -> int:
    from basicsr.engine.weights.store import download, published

    for known in [published(name) for name in args.names]:
        print(download(known, accept=args.accept_licence))
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
    from basicsr.engine.weights.identify import metadata_of_published
    from basicsr.engine.weights.store import SUFFIXES
    from basicsr.utils.checkpoint import read_metadata, read_weights, save_weights

    if args.output.suffix not in SUFFIXES:
        raise UserError(f"{args.output}: the name must end in .pth or .safetensors.")
    weights = read_weights(args.input, args.param_key)
    save_weights(args.output, weights, metadata_of_published(args.input) | read_metadata(args.input) | _said(args))
    print(f"{len(weights)} tensors in {args.output}")
    return 0


def _said(args: argparse.Namespace) -> dict[str, str]:
    said = {"train_size": args.train_size, "base_size": args.window}
    return {word: str(size) for word, size in said.items() if size is not None}
