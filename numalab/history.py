"""What tasks did and were told, and which answers memory may give: a register for each word.

A load must give a value that was current at some moment between its start and its end.  A store
that nobody answered may or may not have happened.  The rights to a page (mapped how, or not at all)
are a register of the same kind, so a load that races munmap may give the word or EFAULT, and one
that starts after munmap has answered may give EFAULT only.  Fork copies the registers.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from numalab.checker import Finding, invalid
from numalab.orders import IndefiniteError
from numalab.registers import FileWords, PrivateWords, Register, Words, Write
from numalab.rights import PROT_READ, PROT_WRITE, Mapped, Rights, discarded, distinct
from protocol.messages import Done

#: Operations that change the rights to pages that are there.
_CHANGES = ("unmap", "protect", "discard")


@dataclass(slots=True, eq=False)
class Space:
    """The address space of one task; pages never mapped are not in ``rights``.

    uncertain: a mapping was asked for and never answered, so an unknown address may be mapped.
    exit: from when on the task may be gone, and from when on it must be.
    """

    rights: dict[int, Register[Rights]] = field(default_factory=dict)
    uncertain: bool = False
    exit: tuple[float, float] = (math.inf, math.inf)

    def at(self, page: int) -> Register[Rights]:
        if page not in self.rights:
            self.rights[page] = Register([Write(None, -math.inf, -math.inf)])
        return self.rights[page]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an operation ended: 0 and its value, or an errno; not definite: nobody knows."""

    error: int = 0
    value: int = 0
    definite: bool = True


def outcome_of(result: object) -> Outcome:
    """The result of an order to a client (numalab/orders.py), as the history wants it."""
    match result:
        case IndefiniteError():
            return Outcome(result.errno or errno.EIO, definite=False)
        case OSError():
            return Outcome(result.errno or errno.EIO)
        case bytes():
            return Outcome(value=int.from_bytes(result, "little"))
        case Done(value=value):
            return Outcome(-value) if value < 0 else Outcome(value=value)
        case _:
            return Outcome()


@dataclass(slots=True, eq=False)
class Operation:
    """Something a task asks for.  kind: load store map unmap protect discard lock fork exit.

    address, length: in bytes.  value: of a store.  prot, shared: of map and protect.  file, pgoff:
    of map, which file (empty: none) and from which page of it.  discard is MADV_DONTNEED.
    """

    kind: str
    pid: int
    address: int = 0
    length: int = 0
    value: int = 0
    prot: int = 0
    shared: bool = False
    file: str = ""
    pgoff: int = 0
    start: float = 0.0
    end: float = math.inf
    words: list[tuple[Register[int], Write[int]]] = field(default_factory=list)
    rights: list[tuple[Register[Rights], Write[Rights]]] = field(default_factory=list)

    def describe(self, end: float) -> str:
        where = f" at {self.address:#x}" if self.address else ""
        return f"{self.kind}{where} of task {self.pid} ({self.start:.6f} to {end:.6f} s)"


class History:
    """Operations go in (``began``, ``ended``), findings come out."""

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.spaces: dict[int, Space] = {}
        self.findings: list[Finding] = []
        self.checked = 0
        #: The pages of each file, which all who map it share.
        self.files: dict[str, dict[int, FileWords]] = {}
        self._running: dict[int, Operation] = {}
        #: Stores and changes that have ended, and when, while a mapping was asked for that they may
        #: have been about.
        self._landed: list[tuple[float, Operation]] = []

    def spawned(self, pid: int) -> None:
        """A task with an empty address space."""
        self.spaces[pid] = Space()

    def cloned(self, pid: int, tid: int) -> None:
        """``tid`` is a thread: it has the address space of ``pid``."""
        space = self.spaces[pid]
        self.spaces[tid] = Space(space.rights, space.uncertain)

    def _share(self, pid: int, other: int) -> bool:
        """Whether two tasks have one address space."""
        return self.spaces[pid].rights is self.spaces[other].rights

    def vanished(self, pid: int) -> None:
        """The machine ended the task by itself (its client's lease ran out), at any moment."""
        if pid in self.spaces:
            self.spaces[pid].exit = (-math.inf, math.inf)

    def oldest(self, now: float) -> float:
        """The start of the oldest operation that runs."""
        return next((operation.start for operation in self._running.values()), now)

    def running(self) -> list[Operation]:
        return list(self._running.values())

    # ---- began -----------------------------------------------------------------------------

    def began(self, operation: Operation, now: float) -> Operation:
        """The operation is about to be asked for; give the same object to ``ended``."""
        operation.start = now
        self._running[id(operation)] = operation
        space = self.spaces[operation.pid]
        match operation.kind:
            case "store":
                for rights in self._rights(operation, now, math.inf):
                    if rights is not None:
                        self._add_store(operation, rights.words, now)
            case "unmap" | "protect" | "discard":
                for page in self._pages(operation):
                    if page in space.rights:
                        self._add_rights(operation, page, now)
            case "lock":
                for rights in self._rights_of(operation, now):
                    rights.words.copied(now)
            case "exit":
                space.exit = (min(space.exit[0], now), space.exit[1])
        return operation

    def _add_store(self, operation: Operation, words: Words, now: float) -> None:
        register = words.at(operation.address % self.page_size)
        if any(known is register for known, _ in operation.words):
            return
        words.copied(operation.start)
        write = register.begin(operation.value, operation.start, self.oldest(now))
        operation.words.append((register, write))

    def _add_rights(self, operation: Operation, page: int, now: float) -> None:
        register = self.spaces[operation.pid].rights[page]
        seen = [write.value for write in register.possible(now, math.inf)]
        for rights in _changed(operation, seen):
            write = register.begin(rights, now, self.oldest(now))
            operation.rights.append((register, write))
            if operation.kind == "discard" and rights is not None and not rights.shared:
                self._join_stores(self._running.values(), operation.pid, page, rights.words, now)

    def _join_stores(
        self, stores: Iterable[Operation], pid: int, page: int, words: Words, now: float
    ) -> None:
        """Those of the operations that are stores may land in words that are new at this page."""
        for other in stores:
            if other.kind == "store" and self._share(other.pid, pid):
                if other.address // self.page_size == page:
                    self._add_store(other, words, now)

    def _rights_of(self, operation: Operation, now: float) -> Iterator[Mapped]:
        """All that may be mapped in the range, from now on."""
        space = self.spaces[operation.pid]
        for page in self._pages(operation):
            if page in space.rights:
                writes = space.rights[page].possible(now, math.inf)
                yield from distinct([write.value for write in writes])

    def _pages(self, operation: Operation) -> range:
        first = operation.address // self.page_size
        return range(first, first - (-operation.length // self.page_size))

    def _rights(self, operation: Operation, start: float, end: float) -> list[Rights]:
        """What the rights to the operation's page may be: each mapping once, None if unmapped."""
        register = self.spaces[operation.pid].at(operation.address // self.page_size)
        return [write.value for write in register.possible(start, end)]

    def _uncertain(self, pid: int) -> bool:
        """Something may be mapped where nobody has told us yet."""
        return self._maps(pid) or self.spaces[pid].uncertain

    def _maps(self, pid: int) -> bool:
        """A mapping is being asked for in this address space."""
        maps = (other for other in self._running.values() if other.kind == "map")
        return any(self._share(other.pid, pid) for other in maps)

    # ---- ended -----------------------------------------------------------------------------

    def ended(self, operation: Operation, outcome: Outcome, now: float) -> None:
        """It has this outcome; anything that no memory could have answered is a finding."""
        del self._running[id(operation)]
        self.checked += 1
        space = self.spaces[operation.pid]
        if outcome.error == errno.ESRCH and outcome.definite:
            if space.exit[0] > now:
                self._blame(operation, now, f"said ESRCH, but task {operation.pid} lives")
            self._settle(operation, outcome, now)
            return
        if not outcome.error and space.exit[1] < operation.start:
            self._blame(operation, now, "succeeded after the task had exited")
        if operation.kind in _CHANGES:
            operation.end = math.inf if outcome.error else now
            if self._maps(operation.pid):
                self._landed.append((now, operation))
        match operation.kind:
            case "load":
                self._end_load(operation, outcome, now)
            case "store":
                if self._maps(operation.pid) and not (outcome.error and outcome.definite):
                    self._landed.append((now, operation))
                self._end_store(operation, outcome, now)
            case "map":
                self._end_map(operation, outcome, now)
            case "fork":
                if outcome.error == 0:
                    self._end_fork(operation, outcome.value, now)
            case "exit":
                if outcome.error == 0:
                    space.exit = (space.exit[0], min(space.exit[1], now))
            case "discard" | "protect":
                # What lies before a hole is changed all the same: nobody knows where that is.
                known = outcome.definite and not outcome.error
                self._settle(operation, Outcome(outcome.error, definite=known), now)
            case _:
                self._settle(operation, outcome, now)

    def _settle(self, operation: Operation, outcome: Outcome, now: float) -> None:
        """Its writes have happened by now; or never, if it failed; or nobody knows."""
        changes: list[tuple[Register[int], Write[int]] | tuple[Register[Rights], Write[Rights]]]
        changes = [*operation.words, *operation.rights]
        if not outcome.definite:
            return
        for register, write in changes:
            if outcome.error == 0:
                write.end = min(write.end, now)
            elif write.end < math.inf:
                self._blame(operation, now, f"failed, but {write.value} was seen")
            elif write in register.writes:
                register.writes.remove(write)  # type: ignore[arg-type]

    def _end_load(self, operation: Operation, outcome: Outcome, now: float) -> None:
        rights = self._rights(operation, operation.start, now)
        if outcome.error or not outcome.definite:
            self._check_error(operation, outcome, rights, PROT_READ, now)
            return
        seen: list[int] = []
        found: list[tuple[Register[int], Write[int], float]] = []
        for mapped in distinct(rights, PROT_READ):
            offset = operation.address % self.page_size
            for value, register, write, start in mapped.words.seen(offset, operation.start, now):
                seen.append(value)
                if value == outcome.value:
                    found.append((register, write, start))
        if len(found) == 1:
            register, write, start = found[0]
            other = register.observe(write, start, now)
            if other is not None:
                what = f"gave {write.value}, but {other.value} was seen before and after that"
                self._blame(operation, now, what)
        if not found and not (None in rights and self._uncertain(operation.pid)):
            could = ", ".join(map(str, sorted(set(seen)))) or "no value at all (not mapped)"
            self._blame(operation, now, f"gave {outcome.value}, where it could be {could}")

    def _end_store(self, operation: Operation, outcome: Outcome, now: float) -> None:
        rights = self._rights(operation, operation.start, now)
        if outcome.error or not outcome.definite:
            self._check_error(operation, outcome, rights, PROT_WRITE, now)
            self._settle(operation, outcome, now)
            return
        writable = distinct(rights, PROT_WRITE)
        elsewhere = None in rights and self._uncertain(operation.pid)
        if len(writable) == 1 and not elsewhere:
            self._settle(operation, outcome, now)
            writable[0].words.written(now)
        if not writable and not elsewhere:
            self._blame(operation, now, "succeeded where nothing was mapped for writing")

    def _check_error(
        self, operation: Operation, outcome: Outcome, rights: list[Rights], prot: int, now: float
    ) -> None:
        if not outcome.definite:
            return
        mapped = [m for m in rights if m is not None]
        leaving = self.spaces[operation.pid].exit[0] <= now
        if outcome.error == errno.EFAULT and len(mapped) == len(rights) and not leaving:
            self._blame(operation, now, "said EFAULT where a page was mapped all the time")
        elsewhere = None in rights and self._uncertain(operation.pid)
        if outcome.error == errno.EACCES and all(m.prot & prot for m in mapped) and not elsewhere:
            self._blame(operation, now, "said EACCES where the protection allowed it")

    def _end_map(self, operation: Operation, outcome: Outcome, now: float) -> None:
        space = self.spaces[operation.pid]
        if outcome.error:
            if not outcome.definite:
                for other in self.spaces.values():
                    other.uncertain |= other.rights is space.rights
            return
        operation.address = outcome.value
        stores = [*self._running.values()]
        stores += [store for end, store in self._landed if end >= operation.start]
        if not any(other.kind == "map" for other in stores):
            self._landed.clear()
        for index, page in enumerate(self._pages(operation)):
            words = self._new_words(operation, index)
            register = space.at(page)
            mapped = Mapped(operation.prot, operation.shared, words)
            register.begin(mapped, operation.start, self.oldest(now)).end = now
            self._join_stores(stores, operation.pid, page, words, now)
            self._join_changes(stores, operation, page, words, now)

    def _join_changes(
        self, others: Iterable[Operation], mapping: Operation, page: int, words: Words, now: float
    ) -> None:
        """Those that change this page at the same time may have found the new mapping there."""
        there = Mapped(mapping.prot, mapping.shared, words)
        register = self.spaces[mapping.pid].rights[page]
        for other in others:
            if other.kind in _CHANGES and page in self._pages(other):
                if self._share(other.pid, mapping.pid):
                    for rights in _changed(other, [there]):
                        write = register.begin(rights, other.start, self.oldest(now))
                        write.end = other.end
                        other.rights.append((register, write))

    def _new_words(self, operation: Operation, index: int) -> Words:
        """The contents of the page that is ``index`` pages into a new mapping."""
        if not operation.file:
            return Words()
        pages = self.files.setdefault(operation.file, {})
        of_file = pages.setdefault(operation.pgoff + index, FileWords())
        return of_file if operation.shared else PrivateWords(of_file)

    def _end_fork(self, operation: Operation, child: int, now: float) -> None:
        """Every page of the child: shared, or a copy as of some moment of the fork."""
        # What the parent is just mapping may be in the child, at an address yet unknown.
        space = self.spaces[child] = Space(uncertain=self._uncertain(operation.pid))
        copies: dict[int, Words] = {}
        for page, register in self.spaces[operation.pid].rights.items():
            writes: list[Write[Rights]] = []
            for write in register.possible(operation.start, now):
                rights = write.value
                if rights is not None and not rights.shared:
                    if id(rights.words) not in copies:
                        copies[id(rights.words)] = rights.words.copy(operation.start, now)
                    rights = Mapped(rights.prot, False, copies[id(rights.words)])
                writes.append(Write(rights, operation.start, now, True))
            space.rights[page] = Register(writes)

    def _blame(self, operation: Operation, now: float, what: str) -> None:
        self.findings.append(
            invalid(f"{operation.describe(now)} {what}.", operation.pid, operation.address)
        )

    # ---- at the end ------------------------------------------------------------------------

    def words(self, now: float) -> Iterator[tuple[int, int, frozenset[int]]]:
        """(pid, byte address, values it may hold now) of every word of every task that lives."""
        for pid, space in self.spaces.items():
            if space.exit[0] <= now:
                continue
            for page, register in space.rights.items():
                states = [write.value for write in register.possible(now, now)]
                if len(states) == 1 and states[0] is not None:
                    words = states[0].words
                    for offset in sorted(words.offsets()):
                        values = frozenset(value for value, *_ in words.seen(offset, now, now))
                        yield pid, page * self.page_size + offset, values


def _changed(operation: Operation, seen: list[Rights]) -> list[Rights]:
    """What the rights to a page may be after the operation, if they may be ``seen`` before."""
    if operation.kind == "unmap":
        return [None]
    if operation.kind == "protect":
        return [Mapped(operation.prot, m.shared, m.words) for m in distinct(seen)]
    return list(discarded(seen))
