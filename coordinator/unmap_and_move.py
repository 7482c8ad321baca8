"""unmap_and_move for a chunk of pages: what each state of the life table asks for (K 1.25 - 1.34).

A page gets its frame on the target, its entries become migration entries, the source locks it and
copies it straight to the target, the entries name the new frame, and the old one is freed; or all
of that is undone.  Nothing here decides what comes next: the table does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from coordinator.address_space import buffers_locked, entries_restored, migratepage
from coordinator.asked import Asked
from coordinator.calls import Ask, Reply, statuses_of
from coordinator.few import Reserve, framed, left_taking, put_transfer, taken, unknown
from coordinator.frames import unused
from coordinator.life import State
from coordinator.mem_map import Nids, PageFlag, Pfns, Rows, grouped
from coordinator.memory import Memory
from coordinator.page_mapping import by_object, has_mlocked, objects_of, under_writeback
from coordinator.pagelist import PageList, Settings, Statuses32, new_page_t
from coordinator.placement import INTERLEAVING, Zonelist, policy_zonelist
from coordinator.rmap import mlocked
from coordinator.rows import span
from protocol.messages import (
    CopyPages,
    IsolateLruPage,
    NewPageFrames,
    NewPages,
    NewUncachedPages,
    PutbackLruPages,
    PutPages,
    TakePages,
    UnlockPages,
)
from protocol.notes import EntriesGone, PagesMoved, PagesNotMoved, StepAnswered
from protocol.schema import Message, node_name

EPERM, EAGAIN, ENOMEM, EBUSY = 1, 11, 12, 16


class UnmapAndMove:
    """The questions of one page list: queued, outstanding, and what follows their answers."""

    def __init__(
        self,
        memory: Memory,
        pagelist: PageList,
        get_new_page: new_page_t,
        private: object,
        settings: Settings,
    ) -> None:
        self.memory, self.list, self.settings = memory, pagelist, settings
        self.get_new_page, self.private = get_new_page, private
        self.queue: list[Ask] = []
        self.outstanding = 0
        self.force = False
        #: Rows that wait, in SETTLED, for their old frames to be put.
        self.settled: list[Rows] = []
        #: Frames, by node, of pages whose last entry went meanwhile; the final putback frees them.
        self.unused: list[tuple[int, Pfns]] = []
        self.reserve = Reserve()
        #: The first row that got no frame: it and all after it are not attempted (K 1.20).
        self.nomem_row: int | None = None

    # ---- one step of the table -------------------------------------------------------------

    def begin(self, state: State, rows: Rows) -> None:
        """All pages of the list, which are these, begin in this state."""
        self.list.begin(state)
        self._enter(state, rows)

    def step_ok(self, rows: Rows) -> None:
        self.step(rows, None)

    def step(self, rows: Rows, status: Statuses32 | None, ask: Ask | None = None) -> None:
        """Apply the table to rows that are in one state, then do what their new states ask for.

        ``ask`` is the question that this is the answer to, for states that put it again.
        """
        if not rows.size:
            return
        before = int(self.list.state[rows[0]])
        groups = self.list.apply(rows, status)
        self._leave(before, rows)
        for state, mine in groups:
            if state == before:
                self._put_again(ask)
            else:
                self._enter(state, mine)

    def _leave(self, before: int, rows: Rows) -> None:
        if before == State.TAKING:
            left_taking(self, rows)
        elif before == State.UNLOCKING:
            settled = rows[self.list.state[rows] == State.RESTORING]
            for mapping, index, _ in by_object(self.memory, self.list, settled):
                entries_restored(self.memory, mapping, index)
            for source, mine in self.list.by_source(settled):
                self._entries_to_old(source, mine)
            self.note_entries_gone(settled)
        elif before == State.RESTORING:
            settled = rows[self.list.state[rows] != State.RESTORING]
            for target, mine in self.list.by_target(settled[framed(self.list, settled)]):
                self.memory.put(target, self.list.target_pfn[mine])

    def _enter(self, state: State, rows: Rows) -> None:
        if state == State.ALLOCATING:
            self._ask_for_frames(rows)
        elif state == State.TAKING:
            self.try_to_unmap(rows, young=True)
        elif state == State.RESTORING:
            self._restore(rows)
        elif state == State.COPYING:
            self._unmap_and_copy(rows)
        elif state == State.SETTLING:
            self._each_pair(rows, self._commit)
            self._ask(state, rows)
        elif state == State.SETTLED:
            target, target_pfn = self.list.target[rows], self.list.target_pfn[rows]
            self.memory.release(target, target_pfn, PageFlag.UNSETTLED)
            # The new frame is anybody's: what is left to be done is about the old one.
            self._putback(target, target_pfn)
            self.note_entries_gone(rows)
            # Of few pages none are to follow, and a forced pass may wait for others for long.
            if self.list.few or self.force:
                self.step_ok(rows)
            else:
                self.settled.append(rows)
        elif state == State.MOVED:
            self._moved(rows)
        elif state in (State.FAILED, State.SKIPPED):
            self._stayed(state, rows)
        elif state not in (State.ISOLATED, State.ALLOCATED):
            self._ask(state, rows)

    def answered(self, reply: Reply) -> None:
        asked = reply.ask.context
        assert isinstance(asked, Asked)
        self.outstanding -= 1
        if asked.state == State.LISTED:
            if reply.message is None:
                self._put_again(reply.ask)
            return
        seconds = self.memory.now - asked.since
        step = asked.state.name.lower()
        self.memory.notes.append(StepAnswered(step, asked.rows.size, seconds))
        if asked.early:
            self.reserve.got(self, asked, reply)
            return
        if asked.state == State.ALLOCATING and reply.message is not None:
            self._got_frames(asked, reply)
            return
        if asked.state == State.TAKING:
            self.step(asked.rows, taken(self, asked, reply))
            return
        status = statuses_of(reply, asked.rows.size)
        if asked.state == State.COPYING and self.settings.granule:
            status = self._of_whole_granules(asked.rows, status)
        self.step(asked.rows, status, reply.ask)

    def _of_whole_granules(self, rows: Rows, status: Statuses32) -> Statuses32:
        """A page that could not be copied, or must not be, keeps back all of its granule."""
        status = status.copy()
        granule = objects_of(self.memory, self.list, rows)[1] // self.settings.granule
        for number in np.unique(granule[status != 0]):
            mine = granule == number
            for_good = np.setdiff1d(status[mine], [0, -EAGAIN])
            status[mine] = for_good[0] if for_good.size else -EAGAIN
        return status

    # ---- questions -------------------------------------------------------------------------

    def put(self, nid: int, message: Message, asked: Asked) -> None:
        asked.since = self.memory.now
        self.queue.append(Ask(node_name(nid), message, asked))
        self.outstanding += 1

    def _put_again(self, ask: Ask | None) -> None:
        """To the node's next incarnation, word for word: a frame may be somebody else's by now."""
        assert ask is not None, "a page waits for a question that was not put"
        self.queue.append(ask)
        self.outstanding += 1

    def _ask(self, state: State, rows: Rows) -> None:
        """One question for each node about the old frame, or the new one, of these rows."""
        new = state in (State.RESTORING, State.SETTLING)
        by_nodes = self.list.by_target if new else self.list.by_source
        pfns = self.list.target_pfn if new else self.list.pfn
        for nid, mine in by_nodes(rows):
            pfn = pfns[mine]
            generation = self.memory.mem_map[nid].generation[pfn]
            message: Message
            if state == State.ISOLATING:
                message = IsolateLruPage(pfn, generation, int(self.list.few))
            elif state in (State.SETTLING, State.PUTTING_BACK):
                message = PutbackLruPages(pfn, generation)
            elif state == State.UNLOCKING:
                transfer = int(self.list.transfer[mine[0]])
                unsure = int(unknown(self.list, mine).any())
                message = UnlockPages(transfer, pfn, generation, generation + np.uint32(1), unsure)
            else:
                message = PutPages(pfn, generation)
                self.memory.putting(nid, pfn)
            self.put(nid, message, Asked(state, mine))

    def _ask_for_frames(self, rows: Rows) -> None:
        for asked in self.wanted(self.reserve.take(self, rows)):
            if asked.zonelist.nodes:
                self.ask_zone(asked)
            else:
                self._no_frames(asked.rows)

    def wanted(self, rows: Rows) -> Iterator[Asked]:
        """Rows by the node that they shall go to, with those that may be asked in its place."""
        for nid, mine in grouped(self.get_new_page(self.list, rows, self.private)):
            zonelist = Zonelist((), ())
            if nid >= 0:
                allowed = self.settings.mems_allowed
                if allowed is None:
                    allowed = frozenset(self.memory.nids)
                zonelist = policy_zonelist(self.settings.policy, int(nid), self.memory, allowed)
                if not self.settings.fallback:
                    zonelist = zonelist.only(int(nid))
            yield Asked(State.ALLOCATING, rows[mine], zonelist, int(nid))

    def ask_zone(self, asked: Asked) -> None:
        objects = objects_of(self.memory, self.list, asked.rows)
        message: Message = NewPages(0, *objects, int(asked.early))
        if self.settings.granule:
            message = NewUncachedPages(0, *objects)
        self.put(asked.zonelist.nodes[0], message, asked)

    def _got_frames(self, asked: Asked, reply: Reply) -> None:
        answer, given = reply.message, self.given(asked, reply)
        assert isinstance(answer, NewPageFrames)
        refused = asked.rows[answer.status != 0]
        self.count_allocation(asked, given.size)
        self.step_ok(given)
        if refused.size and asked.zonelist.nodes[1:]:
            rest = asked.zonelist.after_first()
            self.ask_zone(Asked(State.ALLOCATING, refused, rest, asked.wanted))
        else:
            self._no_frames(refused)

    def given(self, asked: Asked, reply: Reply) -> Rows:
        """The rows that have got frames by this answer, which are theirs from now on."""
        answer, wanted = reply.message, reply.ask.message
        assert isinstance(answer, NewPageFrames)
        assert isinstance(wanted, NewPages | NewUncachedPages | TakePages)
        given: Rows = (answer.status == 0).nonzero()[0]
        node, rows = asked.zonelist.nodes[0], asked.rows[given]
        pfn = self.memory.given(node, answer, given, wanted, PageFlag.HELD)
        self.list.target[rows], self.list.target_pfn[rows] = node, pfn
        return rows

    def count_allocation(self, asked: Asked, pages: int) -> None:
        """So many frames came from the first node of the zonelist."""
        node, policy = asked.zonelist.nodes[0], self.settings.policy
        turn = policy is not None and policy.mode in INTERLEAVING and node == asked.wanted
        preferred, local = asked.zonelist.preferred[0], self.settings.local
        self.memory.count_allocation(node, preferred, local, pages, interleave=turn)

    def _no_frames(self, rows: Rows) -> None:
        if rows.size:
            first = int(rows.min())
            if self.settings.granule:
                granule = (
                    objects_of(self.memory, self.list, np.arange(self.list.rows))[1]
                    // self.settings.granule
                )
                first = int(np.flatnonzero(granule == granule[first])[0])
            self.nomem_row = first if self.nomem_row is None else min(self.nomem_row, first)
            self.step(rows, np.full(rows.size, -ENOMEM, np.int32))

    # ---- effects ---------------------------------------------------------------------------

    def _each_pair(self, rows: Rows, effect: Callable[[int, int, Rows], None]) -> None:
        """Call ``effect(source, target, rows)`` for each pair of nodes among the rows."""
        for source, of_source in self.list.by_source(rows):
            for target, theirs in self.list.by_target(of_source):
                effect(source, target, theirs)

    def _restore(self, rows: Rows) -> None:
        """Put the frames on the target, of those that have one or may have one."""
        has, may = framed(self.list, rows), unknown(self.list, rows)
        self._ask(State.RESTORING, rows[has])
        if may.any():
            put_transfer(self, rows[may])
        self.step_ok(rows[~(has | may)])

    def try_to_unmap(self, rows: Rows, *, young: bool = False) -> None:
        for source, mine in self.list.by_source(rows):
            self.memory.try_to_unmap(source, self.list.pfn[mine], young=young)
        self.list.unmapped[span(rows)] = self.memory.now

    def _unmap_and_copy(self, rows: Rows) -> None:
        self.try_to_unmap(rows)
        verdict = self._migratepage(rows)
        self._each_pair(rows[verdict == 0], self._copy)
        self.step(rows[verdict != 0], verdict[verdict != 0])

    def _migratepage(self, rows: Rows) -> Statuses32:
        """What the a_ops->migratepage of each page's object says: 0 to copy it, or -errno."""
        verdict = np.zeros(rows.size, np.int32)
        for mapping, index, of_object in by_object(self.memory, self.list, rows):
            verdict[of_object] = migratepage(self.memory, mapping, index)
            if has_mlocked(self.memory, mapping):
                locked = mlocked(self.memory, self.list.source[rows], self.list.pfn[rows])
                verdict[of_object[locked[of_object]]] = -EPERM
        if self.settings.granule:
            verdict = self._of_whole_granules(rows, verdict)
        self.list.give_up(rows[verdict == -EBUSY], -EBUSY)
        return verdict

    def must_wait(self, rows: Rows) -> bool:
        """Another user has what these pages need: buffer locks, or with force writeback (K 1.29).
        Only pages of files have either.

        The kernel waits for buffers when the entries are gone; here faults are served meanwhile.
        """
        if (
            self.force
            and self.memory.writeback
            and under_writeback(self.memory, self.list, rows).any()
        ):
            return True
        return any(
            buffers_locked(mapping) for mapping, _, _ in by_object(self.memory, self.list, rows)
        )

    def start_copying(self, rows: Rows) -> None:
        """Pages that have their frames: on with them, but for those under writeback (K 1.29)."""
        if self.memory.writeback:
            written = under_writeback(self.memory, self.list, rows)
            late = rows[written]
            self.step(late, np.full(late.size, -EAGAIN, np.int32))
            rows = rows[~written]
        self.step_ok(rows)

    def _copy(self, source: int, target: int, rows: Rows) -> None:
        pfn, target_pfn = self.list.pfn[rows], self.list.target_pfn[rows]
        transfer = self.memory.new_transfer()
        self.list.transfer[span(rows)] = transfer
        message = CopyPages(
            transfer,
            target,
            1,
            int(self.force),
            pfn,
            self.memory.mem_map[source].generation[pfn],
            target_pfn,
            self.memory.mem_map[target].generation[target_pfn],
        )
        self.put(source, message, Asked(State.COPYING, rows))

    def _commit(self, source: int, target: int, rows: Rows) -> None:
        pfn, target_pfn = self.list.pfn[rows], self.list.target_pfn[rows]
        self.memory.mem_map[target].set(target_pfn, PageFlag.UNSETTLED)
        self.memory.commit(source, pfn, target, target_pfn)
        self.memory.notes.append(PagesMoved(source, target, rows.size))

    def _entries_to_old(self, source: int, rows: Rows) -> None:
        """The source serves the page again, under a new generation (design 4)."""
        pfn = self.list.pfn[rows]
        generation = self.memory.mem_map[source].generation[pfn] + np.uint32(1)
        self.memory.set_generations(source, pfn, generation)
        self.memory.remove_migration_ptes(source, pfn, source, pfn)

    def note_entries_gone(self, rows: Rows) -> None:
        if rows.size:
            seconds = self.memory.now - float(self.list.unmapped[span(rows)].min())
            self.memory.longest_entry = max(self.memory.longest_entry, seconds)
            self.memory.notes.append(EntriesGone(rows.size, seconds))

    def _moved(self, rows: Rows) -> None:
        for source, mine in self.list.by_source(rows):
            self.memory.put(source, self.list.pfn[mine])
        self.list.status[rows] = self.list.target[rows]

    def _putback(self, nid: Nids, pfn: Pfns) -> None:
        """Done with these frames; those that nothing names any more are kept for the end."""
        for node, mine in self.memory.by_node(nid):
            gone = unused(self.memory, node, pfn[mine])
            self.memory.release(nid[mine[~gone]], pfn[mine[~gone]])
            if gone.any():
                self.unused.append((node, pfn[mine[gone]]))

    def _stayed(self, state: State, rows: Rows) -> None:
        self._putback(self.list.source[rows], self.list.pfn[rows])
        if state == State.FAILED:
            for source, mine in self.list.by_source(rows):
                status = self.list.status[mine]
                for value in np.unique(status):
                    count = int(np.count_nonzero(status == value))
                    self.memory.notes.append(PagesNotMoved(source, int(value), count))
