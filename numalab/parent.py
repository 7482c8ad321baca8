"""A child process that does not outlive its parent, however that ends."""

from __future__ import annotations

import ctypes
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """To be called by the child: SIGKILL when its parent dies, even if it is stopped then.

    The parent is the thread that started it.  One that is dead already is not told of: stdin tells.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
