"""Where to set the window of TLC: measure a network over base_size, and find the best.

    python scripts/sweep_base_size.py -opt options/test/Sample/NAFNetLocal-SampleNoise.yml --max_images 4

The network of a YAML file, plain or -Local, runs without TLC (`global`) and with windows of 1 to 4 times its training patch
(network_g.train_size, or --train_size), or those of --base_sizes. The images are those of the first data set that
is not `train`, the first of val.metrics decides. Table, sweep.csv, sweep.json and sweep.png come to lie in
results/sweep_<name>/; they are written anew after every window, so that an interrupted sweep leaves what it has.

Choose the window on validation images: chosen on the test set, it is tuned on the test set, and the gain reads too high.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # another package may be installed under the name basicsr

from basicsr.engine.testing.sweep import run_sweep
from basicsr.errors import UserError
from basicsr.options import load, resolve
from basicsr.utils.log import run_entry_point


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", required=True, metavar="FILE", help="YAML options, see options/test")
    parser.add_argument(
        "--base_sizes", nargs="+", type=int, metavar="PIXELS", help="windows (default: 1 to 4 training patches)"
    )
    parser.add_argument("--train_size", type=int, metavar="PIXELS", help="side of the training patches, if the file has none")
    parser.add_argument("--max_images", type=int, metavar="N", help="only the first images")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: results/sweep_<name>")
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="SECTION:KEY=VALUE", help="override options of the file")
    args = parser.parse_args()
    limit = [] if args.max_images is None else [f"val:max_images={args.max_images}"]
    opt = load(args.opt, [*args.force_yml, *limit])
    for option, sizes in (("--base_sizes", args.base_sizes or []), ("--train_size", [args.train_size or 1])):
        if bad := [size for size in sizes if size < 1]:
            raise UserError(f"{option} {bad[0]}: must be a positive number of pixels.")
    folder = args.output or resolve("results") / f"sweep_{opt.name}"
    if folder.is_file():
        raise UserError(f"--output {folder}: is a file; name a folder.")
    run_sweep(opt, args.base_sizes, args.train_size, folder)
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
