"""`python -m minist` is the command `minist`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
