"""`python -m tidings` is the command `tidings`."""

import sys

from tidings.cli.main import run

if __name__ == "__main__":
    sys.exit(run())
