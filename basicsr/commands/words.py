"""Words that several commands share, so that they mean the same everywhere; and the options that they amount to."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from basicsr.commands.parser import Parser, positive
from basicsr.errors import UserError

if TYPE_CHECKING:
    from basicsr.options import Options
    from basicsr.section_types import Figures

PROTOCOLS = ("rgb8", "y8", "float", "noise8", "dpdd", "realblur")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "auto")


def options_file(parser: Parser, *, required: bool = True, default: str | None = None, text: str = "options/test") -> None:
    parser.add_argument("-opt", required=required, default=default, metavar="FILE", help=f"YAML options, see {text}")


def force_yml(parser: Parser) -> None:
    parser.add_argument(
        "--force_yml", nargs="+", default=[], metavar="SECTION:KEY=VALUE", help="options that differ from the file's"
    )


def weights(parser: Parser) -> None:
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="checkpoint (.pth, .safetensors), or a name of `tlc weights`; its network is read off it",
    )
    licence(parser)
    parser.add_argument("--net", "--arch", metavar="NAME", help="network, such as RestormerLocal, where it must be said")


def licence(parser: Parser) -> None:
    parser.add_argument(
        "--accept-licence", action="store_true", help="of published weights that are downloaded and are not for commercial use"
    )


def named_weights(args: argparse.Namespace) -> None:
    """Of --weights NAME, the file of the published or bundled weights of that name, downloaded where it is not at hand."""
    given = vars(args).get("weights")
    if given is not None and not Path(given).exists():
        from basicsr.engine.weights.store import obtain

        args.weights = type(given)(obtain(given, accept=args.accept_licence))


def tlc(parser: Parser, choices: tuple[str, ...] = ("on", "off", "both")) -> None:
    parser.add_argument("--tlc", choices=choices, help="with TLC, the -Local network, or without it, the plain one")


def pairs(parser: Parser) -> None:
    parser.add_argument(
        "--gt", nargs="+", type=Path, metavar="DIR", help="ground truth, instead of -opt: a folder or name.lmdb"
    )
    parser.add_argument(
        "--lq",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="degraded images, instead of -opt; alone: there is no truth; of a network of two views: LEFT RIGHT",
    )


def protocol(parser: Parser) -> None:
    parser.add_argument(
        "--protocol", choices=PROTOCOLS, help="of PSNR and SSIM beside --gt (default: of a published checkpoint's task; rgb8)"
    )


def windows(parser: Parser) -> None:
    parser.add_argument("--window", type=positive, metavar="PIXELS", help="window of TLC at the input's resolution (base_size)")
    parser.add_argument("--train-size", type=positive, metavar="PIXELS", help="patch that the network was trained on")
    selection(parser)


def selection(parser: Parser) -> None:
    parser.add_argument("--exclude", nargs="+", metavar="PATTERN", help="what TLC leaves global, such as 'SCM*' or '*:mean'")
    parser.add_argument("--include", nargs="+", metavar="PATTERN", help="the only parts that TLC makes local")
    parser.add_argument("--in-windows", nargs="+", metavar="PATTERN", help="modules that TLC runs in windows, as '*.attn'")


def device(parser: Parser) -> None:
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), help="where to compute (auto: a GPU if there is one)"
    )


def running(parser: Parser) -> None:
    """How an image is restored."""
    parser.add_argument("--precision", choices=PRECISIONS, help="of the network's arithmetic (auto: the fastest here)")
    parser.add_argument("--tile", metavar="PIXELS", help="work in tiles of this side; auto: as large as memory allows")
    device(parser)


def launcher(parser: Parser) -> None:
    parser.add_argument(
        "--launcher",
        choices=("none", "pytorch", "slurm"),
        help="who starts the processes; torchrun is recognised without it, srun is not",
    )
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # older launchers pass it


def workers(parser: Parser) -> None:
    parser.add_argument("--workers", type=positive, metavar="N", help="processes (default: one a core)")


def as_overrides(args: argparse.Namespace) -> list[str]:
    """What was said by words of their own, and then --force_yml, as overrides of an options file.

    Raises:
        UserError: a device that is not there.
    """
    said = vars(args)
    keys = {"precision": "val:precision", "tile": "val:tile", "max_images": "val:max_images"}
    found = [f"{key}={said[word]}" for word, key in keys.items() if said.get(word) is not None]
    if said.get("device"):
        found.append(f"num_gpu={gpus(args.device)}")
    return [*found, *said.get("force_yml", [])]


def load_options(args: argparse.Namespace) -> "Options":
    """The options of -opt with what was said beside it; weights replace the file's.

    Raises:
        UserError: a network that is said beside the file's.
    """
    from basicsr.options import load, resolve_input

    weights, net = vars(args).get("weights"), vars(args).get("net")
    if net:
        raise UserError(f"--net {net}: network_g of {args.opt} is the network; leave --net or -opt out.")
    own = [f"path:pretrain_network_g={resolve_input(weights).resolve()}"] if weights else []
    return with_settings(load(args.opt, [*own, *as_overrides(args)]), args)


def network_options(args: argparse.Namespace) -> "Options":
    """The options of -opt; or else those of --weights and --net alone: the network, its weights, and a name."""
    from basicsr.engine.weights import options_for_weights
    from basicsr.options import overrides_of, parse

    if args.opt:
        return load_options(args)
    if not args.weights and not args.net:
        raise UserError("name a network: --weights FILE, -opt FILE, or --net NAME.")
    name = re.sub(r"[^\w+.-]", "_", Path(args.weights).stem if args.weights else args.net).lstrip(".")
    opt = parse({"name": name, "network_g": {"type": args.net or "?"}}, "--net", as_overrides(args))
    if args.weights:
        opt = options_for_weights(opt, args.weights, args.net, overrides_of("network_g", args.force_yml))
    return with_settings(opt, args)


def pairs_options(args: argparse.Namespace) -> "Options":
    """The options of -opt; or else those of --weights on the images of --gt and --lq."""
    if args.opt:
        if args.gt or args.lq:
            raise UserError("-opt names the images itself: leave out --gt and --lq, or -opt.")
        if given := vars(args).get("protocol"):
            raise UserError(f"--protocol {given}: -opt says in val.metrics how it is measured; leave --protocol or -opt out.")
        return load_options(args)
    if not (args.weights and args.lq):
        raise UserError("give -opt FILE, or --weights, --gt and --lq (without --gt, pictures are written and not measured).")
    from basicsr.engine.testing.pairs import options_for_pairs

    how = {"arch": args.net, "protocol": vars(args).get("protocol"), "overrides": as_overrides(args)}
    opt = options_for_pairs(args.weights, args.gt, args.lq, **how)
    return with_settings(opt, args)


def settings(args: argparse.Namespace) -> dict[str, object]:
    """The options of TLC that were said, by their names in a file."""
    said = {"base_size": "window", **{word: word for word in ("train_size", "exclude", "include", "in_windows")}}
    return {name: vars(args)[word] for name, word in said.items() if vars(args).get(word) is not None}


def with_settings(opt: "Options", args: argparse.Namespace) -> "Options":
    """The options with those of TLC that were said, such as --window, which turn it on."""
    from basicsr.archs import is_local, with_words
    from basicsr.sections import Component

    said = settings(args)
    if not said:
        return opt
    if vars(args).get("tlc") == "off":
        word = next(iter(said)).replace("base_size", "window").replace("_", "-")
        raise UserError(f"--{word} is a setting of TLC, which --tlc off turns off: leave one of them out.")
    given = opt.network_g.as_dict()
    update = {"network_g": Component(**with_words(given, **said))}
    if not is_local(given):  # the figures of a plain network are not those of its -Local variant
        datasets = {}
        for key, data in opt.datasets.items():
            groups = {name: group.model_copy(update=_of_plain(group)) for name, group in data.groups.items()}
            datasets[key] = data.model_copy(update={**_of_plain(data), "groups": groups})
        update |= {**_of_plain(opt), "datasets": datasets}
    return opt.model_copy(update=update)


def _of_plain(section: "Options | Figures") -> dict[str, dict[str, float]]:
    """The figures of a plain network where the file's network has become its -Local variant, with windows of its own."""
    return {"expected": {}, "expected_plain": section.expected, "expected_local": {}}


def with_tlc_as_said(opt: "Options", args: argparse.Namespace) -> "Options":
    """The options with TLC on or off, where --tlc says so."""
    from basicsr.archs import with_tlc
    from basicsr.sections import Component

    if args.tlc not in ("on", "off"):
        return opt
    return opt.model_copy(update={"network_g": Component(**with_tlc(opt.network_g.as_dict(), args.tlc == "on"))})


def gpus(name: str) -> int | str:
    """num_gpu for --device.

    Raises:
        UserError: a device that is not there.
    """
    import torch

    there = {"auto": True, "cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[name]:
        raise UserError(f"--device {name}: torch {torch.__version__} sees none here; use --device cpu, or auto.")
    return {"cpu": 0, "auto": "auto"}.get(name, 1)
