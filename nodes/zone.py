"""The page frames of one node over ONE buffer, which the driver supplies (design 4).

Where things lie is said in ``nodes/layout.py``.  What is not in the buffer (free frames, pending
LRU adds, counters) is derived when a zone is opened.

A process may be killed between any two stores, so the flags are always written last: they are what
counts, refcounts follow from them, and the one change of two words that must not be seen half done
(free a frame *and* give it a new generation) is announced by the flag FREEING and finished by
``open``.  Commands set an absolute state of (pfn, generation): executing one twice is harmless.
"""

from __future__ import annotations

import errno

import numpy as np
import numpy.typing as npt

from nodes import layout
from nodes.arena import Arena, Room, fresh
from nodes.census import Census
from nodes.flags import (
    ACTIVE,
    ALLOCATED,
    FREEING,
    HELD,
    ISOLATED,
    LEGAL,
    LOCKED,
    LRU,
    MAPPED,
    NEW,
    PENDING_MASK,
    PINNED,
    REFCOUNT,
    UNCACHED,
    check_flags,
)
from nodes.free_area import Frames, FreeArea
from nodes.generation import next_incarnation, same_incarnation
from nodes.landings import Landings
from nodes.layout import U16, U32
from nodes.rows import ONE_SERVED, distinct, refuse, repeated
from protocol.core import Buffer

U8 = npt.NDArray[np.uint8]
Statuses = npt.NDArray[np.int32]
Found = tuple[Frames, U16, Statuses]

#: struct pagevec of 2006: so many LRU adds are collected before they are done.
PAGEVEC_SIZE = 14


class Zone:
    """Frames, flags, generations and contents of one node.

    All page arguments are columns of one length: pfn and generation u4, statuses i4.  Every
    operation answers -EINVAL for a pfn that is no frame and -ESTALE for a generation that is gone,
    and says in its own text what else.  Of rows that name one frame twice the last one counts.
    """

    def __init__(self, buffer: Buffer) -> None:
        """The zone that is in ``buffer``.  ValueError, and nothing written, if there is none."""
        parts = layout.read(buffer)
        self.nid, self.page_size, self.frames = parts.nid, parts.page_size, parts.frames
        self.uuid, self._epoch = parts.uuid, parts.epoch
        self._generation, self._flags = parts.generation, parts.flags
        self._refcount, self._owner, self._index = parts.refcount, parts.owner, parts.index
        self._arena = Arena(parts.pages, parts.page_size)
        #: Which frames contents may be read into, and by whom, beside the operations of the zone.
        self.landings = Landings(parts.flags, parts.generation, parts.pages)
        #: Where pages that lie apart are put together for their way.
        self.room: Room = fresh
        self._derive()

    @classmethod
    def open(cls, buffer: Buffer) -> Zone:
        """The zone that is in ``buffer``.  ValueError, and nothing written, if there is none."""
        return cls(buffer)

    @classmethod
    def format(cls, buffer: Buffer, *, nid: int, page_size: int, frames: int, uuid: bytes) -> Zone:
        """Make a zone of which all frames are free.  ValueError, and nothing written, if it cannot.

        uuid: 16 bytes, others for every zone that is made.
        """
        layout.write(buffer, nid=nid, page_size=page_size, frames=frames, uuid=uuid)
        return cls(buffer)

    @staticmethod
    def size_of(frames: int, page_size: int) -> int:
        """Bytes of the buffer of a zone.  ValueError for sizes that no zone has."""
        return layout.size_of(frames, page_size)

    def _derive(self) -> None:
        """Finish what was cut, then count: flags of each kind, free frames of each block."""
        check_flags(flags := self._flags, self.nid)
        cut = np.flatnonzero(flags == FREEING)
        self._generation[cut] = next_incarnation(self._generation[cut])
        flags[cut] = 0
        self._refcount[:] = REFCOUNT[flags]
        self.census = Census(flags)
        self._free, self._pending = FreeArea(flags), np.empty(0, np.intp)
        self._lru_add(np.flatnonzero(flags & PENDING_MASK == MAPPED))

    @property
    def epoch(self) -> int:
        """The highest epoch seen, as long as the zone lives."""
        return int(self._epoch[0])

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch[0] = epoch

    # ---- the life of a frame ---------------------------------------------------------------

    def new_pages(
        self, mapped: int, owner: U32, index: U32, *, uncached: bool = False
    ) -> tuple[Statuses, U32, U32]:
        """Allocate a frame for each row: (status, pfn, generation); -ENOMEM for what does not fit.

        Runs of neighbours first, the lowest first.  ``mapped`` 1: zero-filled, mapped and pending
        (as lru_cache_add_active()); 2: as lru_cache_add(); 0: contents and mapping are to come.
        ``uncached``: on no LRU, now or later.
        """
        frame = self._free.take(owner.size)
        got = frame.size
        self._owner[frame], self._index[frame] = owner[:got], index[:got]
        self.landings.open(frame)
        if NEW[mapped] & MAPPED:
            self._arena.zero(frame)
        flags = NEW[mapped] | (UNCACHED if uncached else 0)
        self._write(frame, np.full(got, flags, np.uint16))
        if NEW[mapped] & MAPPED and not uncached:
            self._lru_add(frame)
        status = np.full(owner.size, -errno.ENOMEM, np.int32)
        pfn, generation = np.zeros((2, owner.size), np.uint32)
        status[:got], pfn[:got], generation[:got] = 0, frame, self._generation[frame]
        return status, pfn, generation

    def put_pages(self, pfn: U32, generation: U32) -> Statuses:
        """Free frames, whatever holds them; OK for an incarnation that is gone."""
        frame, _, status = self._find(pfn, self._as_now(pfn, generation))
        freed = distinct(frame[status == 0])
        before = self._flags[freed]
        self._flags[freed] = FREEING
        self._generation[freed] = next_incarnation(self._generation[freed])
        self.census.move(before, np.zeros_like(before))
        self._refcount[freed] = self._flags[freed] = 0
        self._free.put(freed)
        self._pending = self._pending[self._flags[self._pending] & MAPPED != 0]
        status[status == -errno.ESTALE] = 0
        return status

    def set_generation(self, pfn: U32, generation: U32, new_generation: U32) -> Statuses:
        """Shut every door at once; OK if the frame has ``new_generation`` already."""
        frame, _, status = self._find_either(pfn, generation, new_generation)
        done = status == 0
        self._generation[frame[done]] = new_generation[done]
        return status

    # ---- the LRU ---------------------------------------------------------------------------

    def migrate_prep(self) -> None:
        """lru_add_drain_all(): nothing is pending afterwards (K 1.13)."""
        drained, self._pending = self._pending, self._pending[:0]
        self._change(drained, add=LRU)

    def isolate_lru_page(self, pfn: U32, generation: U32) -> Statuses:
        """Off the LRU, with a reference more; -EBUSY if it is not there, or was already (K 1.16).

        Of rows that name one frame twice, the first is isolated and the others are busy.
        """
        frame, flags, status = self._find(pfn, generation)
        refuse(status, flags & LRU == 0, errno.EBUSY)
        rows = (status == 0).nonzero()[0]
        if repeated(frame[rows]):
            _, first = np.unique(frame[rows], return_index=True)
            status[np.delete(rows, first)] = -errno.EBUSY
        self._change(frame[rows], add=ISOLATED, remove=LRU)
        return status

    def putback_lru_pages(self, pfn: U32, generation: U32) -> Statuses:
        """Mapped, unlocked, not isolated, on its way to the LRU (but UNCACHED ones) (K 1.22)."""
        frame, flags, status = self._find(pfn, generation)
        done = status == 0
        # Who is pending already stays where it is in the pagevec.
        added = done & (flags & PENDING_MASK != MAPPED) & (flags & (LRU | UNCACHED) == 0)
        self.landings.close(frame[done])
        self._change(frame[done], add=MAPPED, remove=ISOLATED | LOCKED)
        self._lru_add(distinct(frame[added]))
        return status

    # ---- locks -----------------------------------------------------------------------------

    def lock(self, pfn: U32, generation: U32) -> Statuses:
        """The page lock, for migration; -EAGAIN if not mapped, pinned, or somebody else has it."""
        frame, flags, status = self._find(pfn, generation)
        refuse(status, flags & (MAPPED | HELD | PINNED) != MAPPED, errno.EAGAIN)
        self._change(frame[status == 0], add=LOCKED)
        return status

    def unlock(self, pfn: U32, generation: U32, new_generation: U32) -> Statuses:
        """Unlocked, and of ``new_generation``; OK if it is already.  It stays isolated."""
        frame, _, status = self._find_either(pfn, generation, new_generation)
        done = status == 0
        self._generation[frame[done]] = new_generation[done]
        self._change(frame[done], remove=LOCKED)
        return status

    def hold(self, pfn: U32, generation: U32, locked: U8, pinned: U8) -> Statuses:
        """Another user's page lock and references, 1 or 0 each.

        -EAGAIN if migration has the page lock, or no page maps the frame.  Who takes nothing that
        is not held already may name any generation of the same incarnation: polite passes that
        fail change the generation, and a forced one waits for just this (K 1.28).
        """
        known = self._as_now(pfn, generation)
        frame, flags, status = self._find(pfn, known)
        wanted = (np.where(locked, HELD, 0) | np.where(pinned, PINNED, 0)).astype(np.uint16)
        refuse(status, (wanted & ~flags != 0) & (known != generation), errno.ESTALE)
        refuse(status, flags & (MAPPED | LOCKED) != MAPPED, errno.EAGAIN)
        done = status == 0
        after = flags & np.uint16(0xFFFF ^ (HELD | PINNED)) | wanted
        self._write(frame[done], after[done])
        return status

    def held(self, pfn: U32, generation: U32) -> npt.NDArray[np.bool_]:
        """For which rows is it worth to wait: another user has the page lock."""
        _, flags, status = self._find(pfn, generation)
        return np.asarray((status == 0) & (flags & HELD != 0))

    def mapped(self, pfn: U32, generation: U32) -> Statuses:
        """-EAGAIN if no page maps the frame: its contents are not there yet."""
        _, flags, status = self._find(pfn, generation)
        refuse(status, flags & MAPPED == 0, errno.EAGAIN)
        return status

    # ---- contents --------------------------------------------------------------------------

    def load(self, size: int, pfn: U32, generation: U32, start: U32) -> tuple[Statuses, Buffer]:
        """Copy ``size`` bytes at ``start`` of each frame; zeros where the status is not 0.

        -EINVAL beyond the end of a page, -EAGAIN if not mapped or locked.  A ``size`` greater than
        a page has no bytes at all.
        """
        if (at := self._reach_one(size, pfn, generation, start)) >= 0:
            return ONE_SERVED, self._arena.read(at, size)
        position, status = self._reach(size, pfn, generation, start)
        done = status == 0
        if done.all():
            return status, self._arena.gather(position, size, copy=True)
        if size > self.page_size:
            return status, b""
        out = np.zeros((pfn.size, size), np.uint8)
        if size and done.any():
            served = self._arena.gather(position[done], size, copy=False)
            out[done] = np.frombuffer(served, np.uint8).reshape(-1, size)
        return status, out.reshape(-1).data

    def store(self, size: int, pfn: U32, generation: U32, start: U32, data: Buffer) -> Statuses:
        """Write a row of ``data`` at ``start`` of each frame; refused as by ``load``.

        -EINVAL in every row if ``data`` is not ``size`` bytes for each.
        """
        fits = memoryview(data).nbytes == size
        if fits and (at := self._reach_one(size, pfn, generation, start)) >= 0:
            self._arena.write(at, data)
            return ONE_SERVED
        position, status = self._reach(size, pfn, generation, start)
        if memoryview(data).nbytes != size * pfn.size:
            status[:] = -errno.EINVAL
        self._put(position, size, status == 0, data)
        return status

    def land(self, pfn: U32, generation: U32, active: U8, data: Buffer) -> Statuses:
        """Write a page of ``data`` and PageActive into each frame not mapped yet, else -ESTALE.

        -EINVAL in every row if ``data`` is not a page for each.
        """
        frame, flags, status = self._find(pfn, generation)
        refuse(status, flags & MAPPED != 0, errno.ESTALE)
        if memoryview(data).nbytes != self.page_size * pfn.size:
            status[:] = -errno.EINVAL
        self.landings.close(frame[status == 0])
        self._put(frame * self.page_size, self.page_size, status == 0, data)
        self._change(frame[(status == 0) & (active != 0)], add=ACTIVE)
        return status

    def gather(self, pfn: U32, *, copy: bool = False) -> Buffer:
        """The pages one after another.  Every pfn is a frame.

        Without ``copy`` neighbours are a view of the arena: only for as long as they are locked.
        """
        position = pfn.astype(np.intp) * self.page_size
        return self._arena.gather(position, self.page_size, copy=copy, room=self.room)

    def set_active(self, pfn: U32, generation: U32, active: int) -> Statuses:
        """PageActive or not, on the LRU or off it: 1 for a frame that was otherwise."""
        (frame, flags, status), wanted = self._find(pfn, generation), ACTIVE * active
        status[(status == 0) & (flags & ACTIVE != wanted)] = 1
        self._change(frame[status == 1], add=wanted, remove=ACTIVE - wanted)
        return status

    # ---- looking at it ---------------------------------------------------------------------

    def count(self) -> dict[str, int]:
        """Frames that are free, active, inactive, pending, isolated, locked (in that order)."""
        return self.census.count()

    def active(self, pfn: U32) -> U8:
        """PageActive of each; every pfn is a frame."""
        return ((self._flags[pfn] & ACTIVE) // ACTIVE).astype(np.uint8)

    def inventory(self) -> tuple[U32, U16, U32, U32, U32]:
        """Every frame that is not free: (pfn, flags, generation, owner, index)."""
        frame = self._flags.nonzero()[0]
        columns = (self._generation[frame], self._owner[frame], self._index[frame])
        return frame.astype(np.uint32), self._flags[frame], *columns

    def validate(self) -> None:
        """Raise AssertionError if what was derived is not what the flags say, or is not legal."""
        where, flags = f"the zone of node {self.nid}", self._flags
        assert int(flags.max()) < FREEING and not np.count_nonzero(~LEGAL[flags]), f"{where}: flags"
        assert not np.count_nonzero(self._refcount != REFCOUNT[flags]), f"{where}: refcounts"
        self.census.validate(flags, where)
        self._free.validate()
        pending = (flags & PENDING_MASK == MAPPED).nonzero()[0].tolist()
        assert sorted(self._pending.tolist()) == pending, f"{where}: pending LRU adds"
        assert self._pending.size < PAGEVEC_SIZE, f"{where}: a pagevec is full and not drained"

    # ---- beneath ---------------------------------------------------------------------------

    def _find(self, pfn: U32, generation: U32) -> Found:
        """(frame, its flags, status); the frame of a refused row is some frame, never used."""
        frame = pfn.astype(np.intp)
        status = np.zeros(pfn.size, np.int32)
        outside = frame >= self.frames
        if np.count_nonzero(outside):
            frame[outside] = 0
            status[outside] = -errno.EINVAL
        flags = self._flags[frame]
        gone = (flags & ALLOCATED == 0) | (self._generation[frame] != generation)
        refuse(status, gone, errno.ESTALE)
        return frame, flags, status

    def _find_either(self, pfn: U32, generation: U32, new_generation: U32) -> Found:
        """As ``_find``, of a frame that has either generation."""
        now = self._generation[np.minimum(pfn, self.frames - 1)]
        return self._find(pfn, np.where(now == new_generation, new_generation, generation))

    def _as_now(self, pfn: U32, generation: U32) -> U32:
        """The generations of now, of frames that are in the same incarnation still."""
        now = self._generation[np.minimum(pfn, self.frames - 1)]
        return np.where(same_incarnation(now, generation), now, generation)

    def _reach(self, size: int, pfn: U32, generation: U32, start: U32) -> tuple[Frames, Statuses]:
        """(position in the arena, status) of an access by a task."""
        frame, flags, status = self._find(pfn, generation)
        refuse(status, flags & (MAPPED | LOCKED | HELD) != MAPPED, errno.EAGAIN)
        status[start.astype(np.int64) > max(-1, self.page_size - size)] = -errno.EINVAL
        return frame * self.page_size + start.astype(np.intp), status

    def _reach_one(self, size: int, pfn: U32, generation: U32, start: U32) -> int:
        """``_reach`` of one row, as most have: its position, or -1 for who has to look why not."""
        if pfn.size != 1 or (frame := int(pfn[0])) >= self.frames:
            return -1
        shut = int(self._flags[frame]) & (MAPPED | LOCKED | HELD) != MAPPED
        at = int(start[0])
        if shut or self._generation[frame] != generation[0] or at + size > self.page_size:
            return -1
        return frame * self.page_size + at

    def _put(self, position: Frames, size: int, done: npt.NDArray[np.bool_], data: Buffer) -> None:
        if np.count_nonzero(done) == done.size:
            self._arena.scatter(position, size, data)
        elif size and done.any():
            rows = np.frombuffer(data, np.uint8).reshape(done.size, size)[done]
            self._arena.scatter(position[done], size, rows.reshape(-1).data)

    def _lru_add(self, frame: Frames) -> None:
        """Collect, and put whole pagevecs on the LRU, the eldest first.  ``frame``: distinct."""
        waiting = np.concatenate((self._pending, frame))
        drained = waiting.size // PAGEVEC_SIZE * PAGEVEC_SIZE
        self._pending = waiting[drained:]
        self._change(waiting[:drained], add=LRU)

    def _change(self, frame: Frames, *, add: int = 0, remove: int = 0) -> None:
        if frame.size:
            self._write(frame, self._flags[frame] & np.uint16(0xFFFF ^ remove) | np.uint16(add))

    def _write(self, frame: Frames, after: U16) -> None:
        """Store flags, with all that follows from them; the flags last."""
        if repeated(frame):
            backwards, last = np.unique(frame[::-1], return_index=True)
            frame, after = backwards, after[::-1][last]
        self.census.move(self._flags[frame], after)
        self._refcount[frame] = REFCOUNT[after]
        self._flags[frame] = after
