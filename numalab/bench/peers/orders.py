"""How a peer is told what to do: lines on stdin, seconds on stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable

PAGE_SIZE = 4096
#: Pages of a key or an object: the best that was found for every peer.
TOGETHER = 512


def obey(carry: Callable[[], float]) -> None:
    """Carry once for each line, until there are no more."""
    say("ready")
    for _ in sys.stdin:
        say(f"{carry():.9f}")


def say(line: str) -> None:
    """To whoever measures."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def pages_wanted() -> int:
    """The one argument."""
    return int(sys.argv[1])
