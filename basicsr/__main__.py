"""`python -m basicsr` is `tlc`."""

import sys

from tlc_restoration import main

if __name__ == "__main__":
    sys.exit(main())
