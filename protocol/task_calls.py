"""TABLE: what a task asks the coordinator about itself and its memory, beside ``syscalls.py``."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from protocol.schema import Message, Unsigned, Word, message


@message(0x6C, "client>coordinator", answer="Done")
class Setresuid(Message):
    """setresuid(2): -1 leaves an id as it is."""

    pid: Word
    ruid: Word
    euid: Word
    suid: Word


@message(0x6D, "client>coordinator", answer="Done")
class Capset(Message):
    """capset(2): sets of CAP_* as bits; capabilities can only be dropped."""

    pid: Word
    effective: Unsigned
    permitted: Unsigned


@message(0x6E, "client>coordinator", answer="Done")
class Clone(Message):
    """clone(2) with CLONE_VM and CLONE_THREAD: the tid of a thread on ``cpu``, or -errno."""

    pid: Word
    cpu: Unsigned
    leased: Annotated[int, Meta(ge=0, le=1)]


@message(0x72, "client>coordinator", answer="Done")
class SchedSetaffinity(Message):
    """sched_setaffinity(2) to one cpu, on which the task runs from now on."""

    pid: Word
    cpu: Unsigned


@message(0x6F, "client>coordinator", answer="Done")
class Mlock(Message):
    """mlock(2); answered when the pages are there."""

    pid: Word
    address: Unsigned
    length: Unsigned


@message(0x70, "client>coordinator", answer="Done")
class Munlock(Message):
    """munlock(2)."""

    pid: Word
    address: Unsigned
    length: Unsigned


@message(0x71, "client>coordinator", answer="Done")
class Madvise(Message):
    """madvise(2); with MADV_DONTNEED answered when no translation of a page is served any more."""

    pid: Word
    address: Unsigned
    length: Unsigned
    advice: Word
