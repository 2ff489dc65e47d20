"""Train a network: python basicsr/train.py -opt options/train/Sample/NAFNet-SampleNoise.yml"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p).resolve() != HERE)]  # this basicsr before any other

import basicsr

if Path(basicsr.__file__).resolve().parent != HERE:
    print(f"error: another basicsr is imported, {basicsr.__file__}: uninstall it (pip uninstall basicsr).", file=sys.stderr)
    sys.exit(2)

from basicsr.engine.training.fit import fit
from basicsr.options import load
from basicsr.utils import dist
from basicsr.utils.log import run_entry_point


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-opt", required=True, metavar="FILE", help="YAML options, see options/train")
    parser.add_argument("--auto_resume", action="store_true", help="go on from the latest state of the run of this name")
    parser.add_argument("--dry_run", action="store_true", help="check everything and print the plan; nothing is written")
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="SECTION:KEY=VALUE", help="override options of the file")
    dist.add_arguments(parser)
    args = parser.parse_args()
    dist.start(args.launcher, args.local_rank)
    opt = dist.together(lambda: load(args.opt, args.force_yml))
    code = fit(opt, auto_resume=args.auto_resume, dry_run=args.dry_run)
    dist.stop()
    return code


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
