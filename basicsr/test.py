"""Evaluate a network: python basicsr/test.py -opt options/test/GoPro/RestormerLocal-GoPro.yml [--tlc both]"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p).resolve() != HERE)]  # this basicsr before any other

import basicsr

if Path(basicsr.__file__).resolve().parent != HERE:
    print(f"error: another basicsr is imported, {basicsr.__file__}: uninstall it (pip uninstall basicsr).", file=sys.stderr)
    sys.exit(2)

from basicsr.engine.testing.run_test import run_test
from basicsr.options import load
from basicsr.utils import dist
from basicsr.utils.log import run_entry_point


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-opt", required=True, metavar="FILE", help="YAML options, see options/test")
    parser.add_argument("--tlc", choices=("on", "off", "both"), help="run the -Local net, the plain one, or both and the gain")
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="SECTION:KEY=VALUE", help="override options of the file")
    dist.add_arguments(parser)
    args = parser.parse_args()
    dist.start(args.launcher, args.local_rank)
    run_test(dist.together(lambda: load(args.opt, args.force_yml)), tlc=args.tlc)
    dist.stop()
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
