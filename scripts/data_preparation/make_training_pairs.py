"""Make training and validation pairs from a folder of sharp photographs: degrade them, hold some out, cut crops.

    python scripts/data_preparation/make_training_pairs.py --input photographs --kind noise --val a b c

Writes crops of 192 to <output>/train/{target,input_<kind>} and of 480 to <output>/val/{target,input_<kind>}. A second run makes
the same crops again; crops of other settings, or another choice of photographs to validate on, are refused.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from degrade import KINDS, degrade_folder
from extract_subimages import extract, refuse_other_settings

from basicsr.data.storage import FolderStorage
from basicsr.errors import UserError, did_you_mean, first_ten
from basicsr.utils.image import image_size
from basicsr.utils.log import run_entry_point


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, type=Path, help="folder of sharp photographs")
    parser.add_argument("--output", type=Path, default=Path("datasets/Sample"))
    parser.add_argument("--kind", choices=sorted(KINDS), default="noise")
    parser.add_argument(
        "--val", nargs="+", required=True, metavar="NAME", help="photographs to validate on (names without suffix)"
    )
    parser.add_argument("--crop", type=int, default=192, help="side of the training crops (default: %(default)s)")
    parser.add_argument("--val_crop", type=int, default=480, help="side of the validation crops (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--workers", type=int, default=None, help="processes; all cores by default")
    parser.add_argument("--overwrite", action="store_true", help="remove the crops that are there, also of other settings")
    args = parser.parse_args()
    if args.crop < 1 or args.val_crop < 1:
        raise UserError("--crop and --val_crop must be positive.")
    return args


def check_photographs(args: argparse.Namespace) -> None:
    """Raises UserError for names that are not there and photographs smaller than a crop."""
    names = FolderStorage(args.input, "--input").files
    if unknown := [name for name in args.val if name not in names]:
        raise UserError(f"--val: {args.input} has no {first_ten(unknown)}.{did_you_mean(unknown[0], names)}")
    if len(set(args.val)) == len(names):
        raise UserError("--val: these are all the photographs; leave some to train on.")
    sides = {name: args.val_crop if name in args.val else args.crop for name in names}
    if small := [names[name].name for name, side in sides.items() if min(image_size(names[name])) < side]:
        raise UserError(f"--input: smaller than a crop: {first_ten(small)}; remove them, or set --crop or --val_crop lower.")


def main() -> int:
    args = parse()
    check_photographs(args)
    steps = {"train": (args.crop, max(1, args.crop - args.crop // 12)), "val": (args.val_crop, args.val_crop)}
    origins = {f"input_{args.kind}": {"val": sorted(set(args.val)), "kind": args.kind, "seed": args.seed}}
    origins["target"] = {"val": sorted(set(args.val))}
    if not args.overwrite:  # all four folders are looked at before anything is written
        for part, (crop, step) in steps.items():
            for side, origin in origins.items():
                refuse_other_settings(args.output / part / side, {"crop_size": crop, "step": step, **origin})
    with tempfile.TemporaryDirectory() as temporary:
        degraded = Path(temporary)
        failed = degrade_folder(args.input, degraded / "all", kind=args.kind, seed=args.seed, workers=args.workers)
        if failed:
            raise UserError(f"--input: these photographs cannot be used: {first_ten(failed)}; remove them.")
        for folder, side in ((degraded / "all", f"input_{args.kind}"), (args.input, "target")):
            parts = degraded / side
            for name, path in FolderStorage(folder, "--input").files.items():
                part = parts / ("val" if name in args.val else "train")
                part.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, part)
            for part, (crop, step) in steps.items():
                settings = {"workers": args.workers, "overwrite": args.overwrite, "origin": origins[side]}
                print(extract(parts / part, args.output / part / side, crop, step, **settings))
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
