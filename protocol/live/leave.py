"""How a program ends that may have threads which nobody can wait for."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End this process now, with this exit code, or 1 if what it wrote is not taken.

    The metrics page is served by threads that may be in the middle of it, for as long as who asked
    likes.  An interpreter that is taken down under them crashes now and then.
    """
    # A stream whose descriptor was closed at the start is not there.
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 1
    os._exit(code)
