"""`tlc restore` at the path that BasicSR users type: python basicsr/demo.py --input photo.jpg --output restored.png"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p).resolve() != HERE)]  # this basicsr before any other

import basicsr

if Path(basicsr.__file__).resolve().parent != HERE:
    print(f"error: another basicsr is imported, {basicsr.__file__}: uninstall it (pip uninstall basicsr).", file=sys.stderr)
    sys.exit(2)

from basicsr import commands
from basicsr.utils.log import run_entry_point


def main() -> int:
    return commands.run(["restore", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
