"""`tlc prepare hide` at the path that BasicSR users type."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # another package may be installed under the name basicsr

from basicsr import commands
from basicsr.utils.log import run_entry_point


def main() -> int:
    return commands.run(["prepare", "hide", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
