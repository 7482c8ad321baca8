"""The real program whose memory the demonstration moves: it holds data that a seed determines.

``python -m numalab.program SEED MEBIBYTES`` says on stdout, as one JSON line, where its data are,
and lives until its stdin is closed or its parent dies.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import sys

from numalab.parent import die_with_parent

MIB = 1 << 20


def mebibyte(seed: int, number: int) -> bytes:
    """The data of the ``number``-th MiB."""
    return random.Random(f"{seed} {number}").randbytes(MIB)


def main() -> None:
    """Fill the memory, say so, wait."""
    seed, size = int(sys.argv[1]), int(sys.argv[2])
    memory = mmap.mmap(-1, size * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for number in range(size):
        memory[number * MIB : (number + 1) * MIB] = mebibyte(seed, number)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    sys.stdout.write(json.dumps({"pid": os.getpid(), "address": address}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    die_with_parent()
    main()
