"""`python -m basicsr` is `tlc`."""

import sys

from basicsr.commands import main

if __name__ == "__main__":
    sys.exit(main())
