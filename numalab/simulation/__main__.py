"""``python -m numalab.simulation`` is ``numalab sim``."""

from __future__ import annotations

import sys

from numalab.cli import main

if __name__ == "__main__":
    main(["sim", *sys.argv[1:]])
