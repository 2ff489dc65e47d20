"""Restore photographs and videos: a file, several, a folder or a pattern.

examples:
    tlc restore photo.jpg
    tlc restore photo.jpg --task blur --compare
    tlc restore photos/ --output restored/ --weights motion_deblurring.pth --net RestormerLocal
    tlc restore clip.mp4 --task blur
    tlc restore 'photos/*.png' --output restored/ -opt options/demo/RestormerLocal-GoPro.yml --tile auto

Without --weights and -opt a small bundled network removes noise, or with --task blur motion blur. What was restored lies
beside the photograph as photo_restored.png, a video as clip_restored.mp4, what comes from a folder in folder_restored,
unless --output says where.
"""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from basicsr.commands import words
from basicsr.commands.parser import Parser
from basicsr.errors import UserError

if TYPE_CHECKING:
    from basicsr.options import Options

logger = logging.getLogger("basicsr")
WORDS = ("window", "train_size", "exclude", "include", "in_windows")  # of TLC
TASKS = {"noise": "options/demo/demo.yml", "blur": "options/demo/NAFNetLocal-SampleBlur.yml"}


def add_arguments(parser: Parser) -> None:
    parser.add_argument("photos", nargs="*", type=Path, metavar="PHOTO", help="files, folders or patterns")
    parser.add_argument("--input", "--input_path", nargs="+", type=Path, default=[], metavar="PHOTO", help="the same")
    parser.add_argument("--output", "--output_path", type=Path, metavar="PATH", help="a file, or a folder for several")
    parser.add_argument("--target", type=Path, metavar="PATH", help="the sharp photograph or folder, to print PSNR")
    parser.add_argument(
        "--input2", type=Path, metavar="PATH", help="the second view or a folder of them, for networks of two (dual pixels)"
    )
    parser.add_argument("--task", choices=list(TASKS), help="which bundled network (default: noise)")
    words.weights(parser)
    words.options_file(parser, required=False, text="options/demo")
    words.tlc(parser)
    words.windows(parser)
    words.running(parser)
    parser.add_argument("--compare", action="store_true", help="also draw input, plain and -Local network side by side")
    parser.add_argument("--safe", action="store_true", help="restore without TLC where the result cannot be right")
    parser.add_argument(
        "--resume", action="store_true", help="leave out what was restored before with the same weights and options"
    )
    parser.add_argument(
        "--value-range",
        nargs=2,
        type=float,
        metavar=("BLACK", "WHITE"),
        help="what black and white are in the files, such as 0 255 in files of floats (default: of the type)",
    )
    words.force_yml(parser)


def run(args: argparse.Namespace) -> int:
    from basicsr.engine.restoring.run_demo import run_demo
    from basicsr.options import resolve, resolve_input

    if args.task and (args.opt or args.weights):
        raise UserError("--task chooses a bundled network: leave out -opt and --weights, or --task.")
    exported = _exported(args)
    if args.net and not args.weights:
        raise UserError(f"--net {args.net}: name its weights with --weights.")
    opt = _options(args, exported)
    sources, output, truth = [resolve_input(photo) for photo in (*args.photos, *args.input)], args.output, args.target
    if not sources:
        if opt.img_path is None:
            raise UserError(f"{args.opt} has no img_path: name a photograph.")
        sources, output = [resolve(opt.img_path.input_img)], output or resolve(opt.img_path.output_img)
        truth = truth or (resolve(opt.img_path.target_img) if opt.img_path.target_img else None)
    if args.value_range and not args.value_range[0] < args.value_range[1]:
        raise UserError(f"--value-range {args.value_range[0]:g} {args.value_range[1]:g}: white must be more than black.")
    return run_demo(
        opt,
        sources,
        output,
        truth,
        compare=args.compare or args.tlc == "both",
        exported=exported,
        safe=args.safe,
        value_range=tuple(args.value_range) if args.value_range else None,
        resume=args.resume,
        second=resolve_input(args.input2) if args.input2 else None,
    )


def _exported(args: argparse.Namespace) -> Path | None:
    """The file of --weights where it is a network that `tlc export` wrote, to which nothing of a network can be said."""
    from basicsr.options import overrides_of, resolve_input
    from basicsr.utils.exported import exported_kind

    file = resolve_input(args.weights) if args.weights else None
    if file is None or exported_kind(file) is None:
        return None
    said = {"net": args.net, "tlc": args.tlc, **{word: vars(args)[word] for word in WORDS}}
    found = [f"--{word.replace('_', '-')}" for word, value in said.items() if value is not None]
    found += [f"network_g:{word}" for word in overrides_of("network_g", args.force_yml)]
    if found:
        raise UserError(f"{args.weights} holds its network and runs as it was exported: leave {', '.join(found)} out.")
    return file


def _options(args: argparse.Namespace, exported: Path | None) -> "Options":
    from basicsr.engine.weights import options_for_weights
    from basicsr.options import load, overrides_of

    identify = args.weights and not exported and (args.net or not args.opt)
    if args.opt and not identify:
        opt = words.load_options(args)
    else:
        task = args.task or "noise"
        opt = load(args.opt or TASKS[task], words.as_overrides(args))
        if identify:
            opt = options_for_weights(opt, args.weights, args.net, overrides_of("network_g", args.force_yml))
        elif not exported:
            other = next(name for name in TASKS if name != task)
            bundled = Path(opt.path.pretrain_network_g).stem
            logger.info("Removing %s with the bundled %s (--task %s: %s).", task, bundled, other, other)
        opt = words.with_settings(opt, args)
    return words.with_tlc_as_said(opt, args)
