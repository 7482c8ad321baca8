"""``python -m numalab.simulation`` is ``numalab sim``."""

from __future__ import annotations

import sys

from numalab.cli import run
from protocol.live.leave import leave

if __name__ == "__main__":
    leave(run(["sim", *sys.argv[1:]]))
