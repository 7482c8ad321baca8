"""Faults of one live process: of the messages that it sends, of its disk, and its own death.

Off unless the process is configured with a file of faults (``FaultFile``).  The file is read again
when it is replaced, so faults can be changed, and ended, while the machine runs.  What was hit is
counted in a file that all processes of the machine map, so that a killed one's counts are kept.

A fault of a process at a step is carried out by that process if it sees the step's message itself,
which is exact; else the coordinator writes down who is to be struck, and whoever watches the counts
sends the signal.
"""

from __future__ import annotations

import fcntl
import itertools
import mmap
import os
import random
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path

import msgspec
import trio

from protocol.codec import peek
from protocol.core import ConfigurationError, Frames, JournalError
from protocol.fault_schedule import parse_schedule
from protocol.faults import Lack, Letter, OfProcess, Pause, Side, Strain, kind_of
from protocol.judge import Judge
from protocol.letters import Letters
from protocol.notes import FaultInjected, Note
from protocol.schema import COORDINATOR, node_name

POLL_SECONDS = 0.05
#: Faults of one schedule at most: so long are the columns of the file of counts.
FAULTS_MAX = 4096
#: Columns of the counts: letters concerned, hits, and the process to strike (0: none yet).
COLUMNS = 3
_COORDINATOR_CODE = 1 << 16

Put = Callable[[str, Frames], bool]


class FaultFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The faults of a machine, as a file in JSON.

    base: time.monotonic() from which times count.  seed: of chances.  schedule: a text of
    protocol/fault_schedule.py.  counts: path of the file of counts.
    """

    base: float
    seed: int
    schedule: str
    counts: str


class Counts:
    """The file of counts, mapped; each column has a number for each fault."""

    def __init__(self, path: str | Path, *, make: bool = False) -> None:
        size = FAULTS_MAX * COLUMNS * 8
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0)
        descriptor = os.open(path, flags, 0o600)
        try:
            if make:
                os.ftruncate(descriptor, size)
            view = memoryview(mmap.mmap(descriptor, size)).cast("Q")
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        self.matched = view[:FAULTS_MAX]
        self.hits = view[FAULTS_MAX : 2 * FAULTS_MAX]
        self._struck = view[2 * FAULTS_MAX :]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process that does the same counts meanwhile: of two, one is the third.

        Whoever dies in it leaves it; whoever stood still in it would hold up all others.
        """
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def strike(self, number: int, name: str) -> None:
        """Whoever watches shall know that ``name`` is the one."""
        if name == COORDINATOR:
            self._struck[number] = _COORDINATOR_CODE
        elif name.startswith(node_name(0)[:-1]):
            self._struck[number] = int(name.removeprefix(node_name(0)[:-1])) + 1

    def struck(self, number: int) -> str | None:
        """Who is to be struck by this fault, None: nobody yet, or no process of the machine."""
        code = self._struck[number]
        if not code:
            return None
        return COORDINATOR if code == _COORDINATOR_CODE else node_name(code - 1)


def _ignore(note: Note) -> None:
    """For who wants to know nothing."""


@dataclass(frozen=True, slots=True)
class _Rules:
    """What the file says."""

    judge: Judge
    base: float
    counts: Counts
    strains: tuple[tuple[int, Strain], ...]


class Interference:
    """The faults of the process ``name``, from the file at ``path``.

    on_note: told of every fault.  Raises ConfigurationError if the file cannot be used.
    """

    def __init__(self, name: str, path: str) -> None:
        self.on_note: Callable[[Note], None] = _ignore
        self._name = name
        self._path = Path(path)
        self._letters = Letters()
        self._last: dict[str, float] = {}
        self._late: list[tuple[float, int, str, Frames, Put]] = []
        self._numbers = itertools.count()
        self._rest = trio.CancelScope()
        self._draw = random.Random(f"{name} {os.getpid()}")
        self._stamp = 0
        self._rules = self._read()

    async def follow(self) -> None:
        """Send what is late when its time has come; read the file again when it is another."""
        next_look = 0.0
        while True:
            due = min(next_look, self._late[0][0] if self._late else next_look)
            with trio.CancelScope(deadline=due) as self._rest:
                await trio.sleep_forever()
            now = trio.current_time()
            while self._late and self._late[0][0] <= now:
                _, _, target, frames, put = heappop(self._late)
                put(target, frames)
            if next_look <= now:
                next_look = now + POLL_SECONDS
                # It goes with the machine that ends.
                with suppress(FileNotFoundError):
                    if self._path.stat().st_mtime_ns != self._stamp:
                        self._rules = self._read()

    def _read(self) -> _Rules:
        try:
            self._stamp = self._path.stat().st_mtime_ns
            file = msgspec.json.decode(self._path.read_bytes(), type=FaultFile)
            counts = Counts(file.counts)
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigurationError(
                f"The file of faults {self._path} cannot be used ({error}): have 'numalab stress' "
                "make one, or start the machine without."
            ) from None
        schedule = parse_schedule(file.schedule)
        self._draw.seed(f"{file.seed} {self._name} {os.getpid()}")
        judge = Judge(schedule, self._draw, matched=counts.matched, hits=counts.hits)
        strains = tuple((n, s) for n, s in enumerate(schedule) if isinstance(s, Strain))
        return _Rules(judge, file.base, counts, strains)

    # ---- messages --------------------------------------------------------------------------

    def send(self, target: str, frames: Frames, put: Put) -> bool:
        """Send a message, or what the faults leave of it; True if that is on its way."""
        judge = self._rules.judge
        if not judge.schedule:
            return put(target, frames)
        letter = self._letter(self._name, target, frames)
        self._strike(letter)
        verdict = judge.verdict(letter)
        if judge.applied is not None:
            self.on_note(FaultInjected(kind_of(judge.applied)))
        if verdict.damaged:
            frames = self._damage(frames)
        sent = True
        for extra in verdict.copies:
            sent = self._deliver(target, frames, extra, verdict.in_order, put) and sent
        return sent

    def heard(self, frames: Frames) -> None:
        """A message has come and nobody has looked at it yet."""
        if not self._rules.judge.opens:
            return
        try:
            *_, source, target = peek(frames[0])
        except ValueError:
            return
        self._strike(self._letter(source, target, frames))

    def _letter(self, source: str, target: str, frames: Frames) -> Letter:
        now = time.monotonic() - self._rules.base
        opens = self._rules.judge.opens
        return self._letters.read(source, target, frames, now, opens=opens)

    def _strike(self, letter: Letter) -> None:
        """Die, stand still, or write down who shall."""
        asked = letter.target if letter.side == Side.QUESTION else letter.source

        def may(name: str, fault: OfProcess) -> bool:
            assert fault.step is not None
            if self._name == COORDINATOR:
                return name != asked
            return name == self._name == asked and fault.name in (name, fault.step.role)

        with self._rules.counts.alone() if self._rules.judge.has_steps else nullcontext():
            struck = self._rules.judge.struck(letter, may)
            for number, name, _ in struck:
                self._rules.counts.strike(number, name)
        for _, name, fault in struck:
            if name == self._name:
                number_of = signal.SIGSTOP if isinstance(fault, Pause) else signal.SIGKILL
                os.kill(os.getpid(), number_of)

    def _deliver(self, target: str, frames: Frames, extra: float, in_order: bool, put: Put) -> bool:
        now = trio.current_time()
        at = now + extra
        if in_order:
            at = max(at, self._last.get(target, 0.0))
            self._last[target] = at
        if at <= now:
            return put(target, frames)
        # By then the pages may be other ones.
        copy = tuple(bytes(frame) for frame in frames)
        heappush(self._late, (at, next(self._numbers), target, copy, put))
        self._rest.deadline = min(self._rest.deadline, at)
        return True

    def _damage(self, frames: Frames) -> Frames:
        which = self._draw.choice([n for n, f in enumerate(frames) if memoryview(f).nbytes])
        frame = bytearray(frames[which])
        frame[self._draw.randrange(len(frame))] ^= 1 << self._draw.randrange(8)
        return (*frames[:which], bytes(frame), *frames[which + 1 :])

    # ---- the disk --------------------------------------------------------------------------

    async def write(self) -> None:
        """The journal is about to be written.  Raises JournalError: the disk is full."""
        now = time.monotonic() - self._rules.base
        for number, strain in self._rules.strains:
            if strain.name != self._name or not strain.holds(now):
                continue
            if strain.lack not in (Lack.SLOW_DISK, Lack.FULL_DISK):
                continue
            self._rules.judge.hits[number] += 1
            self.on_note(FaultInjected(str(strain.lack)))
            if strain.lack == Lack.FULL_DISK:
                raise JournalError("the journal cannot be written (a fault: the disk is full)")
            await trio.sleep(strain.delay)
