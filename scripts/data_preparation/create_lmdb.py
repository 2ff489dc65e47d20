"""Pack a folder of images into an LMDB in BasicSR's layout.

    python scripts/data_preparation/create_lmdb.py --input REDS/val/blur_300 --output datasets/REDS/val/blur_300.lmdb

The files' bytes are kept as they are. Every file is decoded first, so a damaged one is found now and not in training, and
every entry is read back and compared at the end. An interrupted run goes on when the same command is given again; a finished
LMDB is compared with the folder and left as it is.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from basicsr.data.storage import write_lmdb
from basicsr.utils.log import run_entry_point


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, type=Path, help="folder of images")
    parser.add_argument("--output", required=True, type=Path, help="the LMDB, name.lmdb")
    parser.add_argument("--workers", type=int, help="processes; all cores by default")
    args = parser.parse_args()
    print(f"{write_lmdb(args.input, args.output, workers=args.workers)} images in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
