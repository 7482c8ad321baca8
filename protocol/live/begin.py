"""Begin as another module: ``python -m protocol.live.begin MODULE ARGUMENT...``.

What a module imports makes many objects and no garbage: looking for some all the while is a tenth
of the time that it takes.  Who serves has that turned on again (protocol/live/process.py).
"""

from __future__ import annotations

import gc
import runpy
import sys

if __name__ == "__main__":
    gc.disable()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
