"""Make training and validation pairs from a folder of sharp photographs: degrade them, hold some out, cut crops.

    python scripts/data_preparation/make_training_pairs.py --input photographs --kind noise --val a b c

Writes crops of 192 to <output>/train/{target,input_<kind>} and of 720 to <output>/val/{target,input_<kind>}.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from degrade import KINDS, degrade_folder
from extract_subimages import extract

from basicsr.data.storage import FolderStorage
from basicsr.errors import UserError, did_you_mean, first_ten
from basicsr.utils.image import image_size
from basicsr.utils.log import run_entry_point


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, type=Path, help="folder of sharp photographs")
    parser.add_argument("--output", type=Path, default=Path("datasets/Sample"))
    parser.add_argument("--kind", choices=sorted(KINDS), default="noise")
    parser.add_argument(
        "--val", nargs="+", required=True, metavar="NAME", help="photographs to validate on (names without suffix)"
    )
    parser.add_argument("--crop", type=int, default=192, help="side of the training crops (default: %(default)s)")
    parser.add_argument("--val_crop", type=int, default=720, help="side of the validation crops (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--workers", type=int, default=None, help="processes; all cores by default")
    args = parser.parse_args()
    names = FolderStorage(args.input, "--input").files
    if unknown := [name for name in args.val if name not in names]:
        raise UserError(f"--val: {args.input} has no {first_ten(unknown)}.{did_you_mean(unknown[0], names)}")
    if len(args.val) == len(names):
        raise UserError("--val: these are all the photographs; leave some to train on.")
    sides = {name: args.val_crop if name in args.val else args.crop for name in names}
    if small := [names[name].name for name, side in sides.items() if min(image_size(names[name])) < side]:
        raise UserError(f"--input: smaller than a crop: {first_ten(small)}; remove them, or set --crop or --val_crop lower.")
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
            for part, crop, step in (("train", args.crop, args.crop - args.crop // 12), ("val", args.val_crop, args.val_crop)):
                output = args.output / part / side
                print(f"{extract(parts / part, output, crop, step, args.workers)} crops in {output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
