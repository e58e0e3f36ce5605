"""Lets `python -m pronk` stand for `pronk`; the work is in cli."""

import sys

from pronk.cli import main

if __name__ == "__main__":
    sys.exit(main())
