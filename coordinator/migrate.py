"""migrate_vmas and migrate_pages (mm/migrate.c of the seed), for pages of other processes.

``life.py`` has the table of a page's life, ``unmap_and_move.py`` what its states ask for.  Two
things stay out of the table and are plain code, here: when a pass ends, and how pages are grouped
into chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import cached_property

import numpy as np

from coordinator import emulated as emulation
from coordinator.calls import PARKED, Reply, Steps, sleep_until
from coordinator.few import start_few
from coordinator.frames import put_unused
from coordinator.life import State
from coordinator.mem_map import Rows
from coordinator.memory import Memory
from coordinator.mm import Mapping, Mm
from coordinator.page_mapping import has_files
from coordinator.pagelist import PageList, Settings, Statuses32, new_page_t
from coordinator.rows import portions
from coordinator.unmap_and_move import UnmapAndMove
from coordinator.vmstat import Migrated
from protocol.messages import Done
from protocol.notes import MigrationEnded, PassEnded
from protocol.profile import Profile
from protocol.schema import Message

EIO, ENOMEM = 5, 12
PASSES = 10
POLITE_PASSES = 3
#: So many chunks are isolated, given frames and released of their old ones by one question each,
#: as nobody waits for these.
PORTION_CHUNKS = 4
#: A chunk of so many pages is copied in two halves.
HALVED_PAGES = 2048


def migrate_page(mapping: Mapping, pages: int) -> Statuses32:
    """a_ops->migratepage that lets the page be copied: plain anonymous memory, shmem (K 1.52)."""
    return np.zeros(pages, np.int32)


def fail_migrate_page(mapping: Mapping, pages: int) -> Statuses32:
    """a_ops->migratepage of an object whose pages must not move: -EIO, for good (K 1.54)."""
    return np.full(pages, -EIO, np.int32)


def migrate_vmas(
    memory: Memory,
    mm: Mm,
    *,
    from_nodes: frozenset[int],
    to_nodes: frozenset[int],
    flags: int,
    profile: Profile,
) -> Steps[int]:
    """Offer each vma that has ``vm_ops->migrate`` to its hook, in address order (K 2.2).

    mmap_sem is held.  The first non-zero return ends the walk and is returned (K 2.5).  Keyword
    arguments, because the header and the definition of 2006 disagreed on the order of the two
    masks (K 2.3).
    """
    vmas = mm.vmas[:-1] if profile.last_vma_skipped else mm.vmas
    for vma in list(vmas):
        if vma.vm_ops is not None and vma.vm_ops.migrate is not None:
            result = vma.vm_ops.migrate(memory, vma, from_nodes, to_nodes, flags)
            if isinstance(result, Generator):
                result = yield from result
            if result:
                return result
    return 0


def migrate_pages(
    memory: Memory,
    pagelist: PageList,
    get_new_page: new_page_t,
    private: object,
    settings: Settings,
) -> Steps[int]:
    """Move every page of the list to where ``get_new_page`` says.

    Returns -ENOMEM, or the number of pages not moved: failed for good, plus those that the last
    pass left to be retried (K 1.21).  Afterwards no page is isolated (K 1.22); ``pagelist.status``
    has the node or -errno of each.
    """
    work = UnmapAndMove(memory, pagelist, get_new_page, private, settings)
    return (yield from Migration(memory, pagelist, work).run())


def chunks(rows: Rows, size: int) -> Iterator[Rows]:
    """``rows`` in pieces of at most ``size``."""
    for at in range(0, rows.size, size):
        yield rows[at : at + size]


class Migration:
    """One call of migrate_pages() under way."""

    def __init__(self, memory: Memory, pagelist: PageList, work: UnmapAndMove) -> None:
        self.memory, self.list, self.work = memory, pagelist, work
        self.settings = work.settings
        #: The pages that frames were last asked for; no others wait for theirs, or to be copied.
        self.portion: Rows = np.zeros(0, np.intp)

    @cached_property
    def has_files(self) -> bool:
        """Some page of the list is of a file."""
        return has_files(self.memory, self.list)

    # ---- the passes (K 1.19) ---------------------------------------------------------------

    def run(self) -> Steps[int]:
        self.list.seal(State.ISOLATED if self.settings.granule else State.LISTED)
        self.memory.page_lists.append(self.list)
        started = self.memory.now
        try:
            retry, failed = yield from self._passes()
            if self._only_frames_are_left():
                self.list.trailing = True
                gone = self.list.moved()
                self.list.status[gone] = self.list.target[gone]
            else:
                yield from self._put_back_rest()
                yield from self._put_unused()
        finally:
            if not self.list.trailing:
                self.memory.page_lists.remove(self.list)
        moved = int(np.count_nonzero(self.list.moved()))
        seconds = self.memory.now - started
        self.memory.notes.append(
            MigrationEnded(moved, failed + retry, self.settings.reason, seconds)
        )
        whose = self.settings.reason, self.settings.caller
        done = Migrated(moved, failed + retry, *whose, started)
        self.memory.count_migration(done)
        account = self._take_emulated_time(started, self.memory.now)
        if not self.list.trailing:
            yield from account
        elif self.memory.emulated.pace:
            self.memory.later.append(self._trail())
            yield from account
        else:
            # Nobody has to wait until it is counted, and what follows is asked for.
            self.memory.later += [account, self._trail()]
        return -ENOMEM if self.work.nomem_row is not None else failed + retry

    def _passes(self) -> Steps[tuple[int, int]]:
        """How many pages are left to be retried, and how many have failed for good."""
        retry, failed = 0, 0
        if self.list.few:
            start_few(self.work)
            yield from self._wait_until(
                lambda: not self.work.outstanding or self._only_frames_are_left()
            )
        elif not self.settings.granule:
            yield from self._isolate_all()
        for number in range(PASSES):
            self.work.force = number >= POLITE_PASSES
            yield from self._one_pass()
            retry = self.list.count(State.ISOLATED)
            self.list.retries += retry
            failed = int(np.count_nonzero(self.list.failed))
            self.memory.notes.append(PassEnded(number, retry, failed))
            if self.work.nomem_row is not None or not retry:
                break
        return retry, failed

    def _only_frames_are_left(self) -> bool:
        """Of few pages, all have moved or stay; who waits for what follows need not be the caller.

        What is asked already, the caller has to wait for: the answer comes to it.
        """
        unasked = 0 < self.work.outstanding == len(self.work.queue)
        settling = self.list.count(State.SETTLING)
        return self.list.few and unasked and self.list.unsettled() == settling

    def _trail(self) -> Steps[Message]:
        """What is left to be done when the call has ended."""
        yield from self._wait_until(lambda: not self.work.outstanding)
        yield from self._put_unused()
        self.memory.page_lists.remove(self.list)
        self.memory.woken = True
        return Done(0)

    def _put_unused(self) -> Steps[None]:
        for nid, pfn in (*self.work.unused, *self.work.reserve.rest(self.work)):
            yield from put_unused(self.memory, nid, pfn)

    def _take_emulated_time(self, started: float, ended: float) -> Steps[Message]:
        """Account for it; if it passes on the clock, the call ends when it is over."""
        memory, emulated = self.memory, self.memory.emulated
        moved = self.list.moved()
        ns = emulated.migrated(memory, self.list, moved, self.settings.local)
        if emulated.pace:
            yield from sleep_until(memory, started + ns * emulated.pace / 1e9)
            ended = memory.now
        wall = (ended - started) * 1e9
        done = emulation.Migration(self.list.pid, int(np.count_nonzero(moved)), ns, wall)
        emulated.waited(memory, done, started, ended)
        return Done(0)

    def _isolate_all(self) -> Steps[None]:
        for rows in portions(self.list.rows, self._portion_size()):
            self.work.step_ok(rows)
            yield from self._wait_until(lambda: self.work.outstanding <= 1)
        yield from self._wait_until(lambda: not self.work.outstanding)

    def _one_pass(self) -> Steps[None]:
        """Chunk by chunk: the next frames are asked for while the last chunks are being copied.

        Two chunks are copied at a time, or three halves of chunks, so that the nodes have work
        while the answers to the one are taken and recorded; a task waits for no longer than these
        take.
        """
        isolated = (self.list.state == int(State.ISOLATED)).nonzero()[0]
        while isolated.size:
            yield from self._wait_until(self._no_frames_wait)
            rows, isolated = np.split(isolated, [self._portion_size()])
            if self.has_files and self.work.must_wait(rows):
                yield from self._wait_until(lambda: not self.work.outstanding)
                while self.work.must_wait(rows):
                    yield PARKED
            if self.work.nomem_row is not None:
                break
            self.portion = rows
            self.work.step_ok(rows)
        yield from self._wait_until(
            lambda: not self.work.outstanding or self._only_frames_are_left()
        )

    def _size(self) -> int:
        """Pages of a chunk."""
        if self.work.force:
            return min(self.settings.chunk_pages, self.settings.forced_chunk_pages)
        return self.settings.chunk_pages

    def _copy_size(self) -> tuple[int, int]:
        """Pages that are copied by one question, and how many such questions are under way.

        Two chunks, or three halves of long ones: pages are shut from then on, and few shall be.
        """
        size = self._size()
        if size < HALVED_PAGES or self.settings.granule:
            return size, 2
        return size // 2, 3

    def _portion_size(self) -> int:
        """Pages that are isolated together, or given frames, or released of their old ones.

        A chunk, where somebody could notice: of files others lock the buffers and write the pages
        back; where frames are few, old ones may be what the next pages need.
        """
        portion = self._size() * PORTION_CHUNKS
        if self.work.force or self.has_files or not self._has_room(portion):
            return self._size()
        return portion

    def _has_room(self, pages: int) -> bool:
        """Every node has so many free frames, but for one that all pages of the list leave."""
        left = self.list.sources.tolist()
        return all(
            frames.frames - frames.used >= pages
            for nid, frames in self.memory.mem_map.items()
            if left != [nid]
        )

    def _no_frames_wait(self) -> bool:
        return not self.list.count(State.ALLOCATING) and not self.list.count(State.ALLOCATED)

    def _put_back_rest(self) -> Steps[None]:
        """putback_lru_pages of what is left; its status stays that of its last attempt (K 1.34)."""
        rest = np.flatnonzero(self.list.state == State.ISOLATED)
        self.list.failed[rest] = 1
        # Only a full target ends the call before every page was attempted.
        self.list.status[rest[self.list.status[rest] == 0]] = -ENOMEM
        for rows in chunks(rest, self.settings.chunk_pages):
            self.work.step_ok(rows)
            yield from self._wait_until(lambda: self.work.outstanding <= 1)
        yield from self._wait_until(lambda: not self.work.outstanding)

    def _wait_until(self, condition: Callable[[], bool]) -> Steps[None]:
        """Send what is queued and take answers until the condition holds."""
        while True:
            self._start_copying()
            self._start_releasing()
            if condition():
                return
            asks, self.work.queue = self.work.queue, []
            reply = yield asks
            assert isinstance(reply, Reply)
            self.work.answered(reply)

    def _start_copying(self) -> None:
        """The next pages have their frames, and few enough are being copied: on with them."""
        if not self.list.count(State.ALLOCATED) or self.list.count(State.ALLOCATING):
            return
        rows = self.portion[self.list.state[self.portion] == int(State.ALLOCATED)]
        if self.work.nomem_row is not None:
            late = rows[rows >= self.work.nomem_row]
            self.work.step(late, np.full(late.size, -ENOMEM, np.int32))
            rows = rows[rows < self.work.nomem_row]
        size, at_once = self._copy_size()
        for part in chunks(rows, size):
            if self.list.count(State.COPYING) + part.size > at_once * size:
                return
            self.work.start_copying(part)

    def _start_releasing(self) -> None:
        """Old frames are put many at a time; and all of them when no more are to follow soon."""
        settled = self.list.count(State.SETTLED)
        more = self.list.count(State.COPYING) or self.list.count(State.SETTLING)
        if settled and (settled >= self._portion_size() or not more):
            rows, self.work.settled = np.sort(np.concatenate(self.work.settled)), []
            self.work.step_ok(rows)
