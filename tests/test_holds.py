"""Who holds a page can let go of it, also while a migration waits for just that (K 1.28)."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import trio

import numalab
from nodes.flags import HELD, PINNED
from numalab.client import Ask, Client, Forget, Hold, Load
from numalab.machine import Machine
from protocol.core import Command
from protocol.messages import HoldPages, Statuses
from protocol.notes import OperationEnded, PassEnded
from protocol.schema import Message, node_name
from protocol.syscalls import Exit, Fault, Mmap, Munmap
from tests import peers
from tests.calls import migration
from tests.lab import KEY, PAGE, Lab
from tests.peers import World, silent
from tests.zones import flags_of, make, ones, touch

FREE = (False, False)
LOCK = (True, False)
PIN = (False, True)
BOTH = (True, True)


def held(locked: int, pinned: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    return ones(1) * np.uint8(locked), ones(1) * np.uint8(pinned)


# ---- the node ------------------------------------------------------------------------------


def test_whoever_lets_go_names_the_incarnation_and_whoever_takes_the_generation() -> None:
    _, zone = make()
    pfn, generation = touch(zone, 1)
    assert zone.hold(pfn, generation, *held(1, 1)).tolist() == [0]
    later = generation + np.uint32(3)
    zone.set_generation(pfn, generation, later)
    assert zone.hold(pfn, generation, *held(0, 1)).tolist() == [0], "the lock, not the pin"
    assert flags_of(zone)[0] & (HELD | PINNED) == PINNED
    assert zone.hold(pfn, generation, *held(1, 1)).tolist() == [-errno.ESTALE]
    assert flags_of(zone)[0] & (HELD | PINNED) == PINNED
    assert zone.hold(pfn, later, *held(1, 1)).tolist() == [0]
    for _ in range(2):
        assert zone.hold(pfn, generation, *held(0, 0)).tolist() == [0]
        assert flags_of(zone)[0] & (HELD | PINNED) == 0
    zone.validate()


def test_a_frame_that_was_freed_is_not_let_go_by_its_former_holder() -> None:
    _, zone = make(frames=1)
    pfn, generation = touch(zone, 1)
    zone.put_pages(pfn, generation)
    _, now = touch(zone, 1)
    assert zone.hold(pfn, now, *held(1, 0)).tolist() == [0]
    assert zone.hold(pfn, generation, *held(0, 0)).tolist() == [-errno.ESTALE]
    assert flags_of(zone)[0] & HELD


def test_a_new_zone_counts_all_revocations_of_its_first_incarnation() -> None:
    _, zone = make()
    pfn, generation = touch(zone, 1)
    zone.hold(pfn, generation, *held(1, 0))
    zone.set_generation(pfn, generation, generation + 255)
    assert zone.hold(pfn, generation, *held(0, 0)).tolist() == [0]


# ---- the client ----------------------------------------------------------------------------


def hold(ticket: int, page: int, shall: tuple[bool, bool], pages: int = 1) -> Hold:
    return Hold(ticket, 7, 0, np.arange(page, page + pages, dtype=np.uint64) * peers.PAGE, *shall)


def deaf_to_faults(world: World) -> None:
    """From now on a fault parks for ever, as on a page under migration."""
    script = world.coordinate
    world.peers["coordinator"].script = lambda m: None if isinstance(m, Fault) else script(m)


@pytest.mark.parametrize("pages", [1, 40], ids=["one page", "more pages than are cached"])
def test_a_page_is_let_go_without_a_fault(pages: int) -> None:
    world = World()
    assert world.result(hold(1, 2, LOCK, pages)) is None
    deaf_to_faults(world)
    assert world.result(hold(2, 2, FREE, pages)) is None
    last = world.peers["node0"].asked[-1]
    assert isinstance(last, HoldPages) and not last.locked.any()


def test_a_lock_is_let_go_without_a_fault_while_the_pin_stays() -> None:
    world = World()
    world.result(hold(1, 2, PIN))
    world.result(hold(2, 2, BOTH))
    deaf_to_faults(world)
    assert world.result(hold(3, 2, PIN)) is None
    assert world.result(hold(4, 2, FREE)) is None


def test_what_another_client_holds_takes_a_fault() -> None:
    world = World()
    assert world.result(hold(1, 2, FREE)) is None
    assert world.asked("coordinator", Fault) == 1


def test_a_frame_that_is_gone_is_looked_up_again() -> None:
    world = World()
    world.result(hold(1, 2, LOCK))
    world.generation[2] = 1000
    assert world.result(hold(2, 2, FREE)) is None
    assert world.asked("coordinator", Fault) == 2


def test_a_release_that_got_no_answer_is_asked_again_without_a_fault() -> None:
    world = World()
    world.result(hold(1, 2, LOCK))
    deaf_to_faults(world)
    world.peers["node0"].script = silent
    world.order(hold(2, 2, FREE))
    world.restart("node0", 2, world.node(0))
    world.until(world.now + 1)
    assert world.results[2] is None


def test_a_lock_that_was_given_up_half_way_can_be_let_go() -> None:
    world = World()
    world.peers["node0"].script = silent
    world.order(hold(1, 2, LOCK, 40))
    world.order(Forget(1))
    deaf_to_faults(world)
    world.peers["node0"].script = world.node(0)
    assert world.result(hold(2, 2, FREE, 40)) is None


@pytest.mark.parametrize(
    ("call", "forgotten"),
    [
        (Munmap(7, 2 * peers.PAGE, peers.PAGE), [2]),
        (Mmap(7, 0, 3 * peers.PAGE, 3, 0x32, "", 0), [2]),
        (Exit(7), [*range(2, 22)]),
        (Exit(8), []),
    ],
    ids=["munmap", "mmap over it", "exit", "exit of another task"],
)
def test_what_is_not_mapped_any_more_is_not_remembered(call: Message, forgotten: list[int]) -> None:
    world = World()
    world.result(hold(1, 2, LOCK, 20))
    world.result(Ask(2, "coordinator", call))
    assert world.result(hold(3, 2, FREE, 20)) is None
    faults = [m for m in world.peers["coordinator"].asked if isinstance(m, Fault)]
    assert [page for fault in faults[1:] for page in fault.page.tolist()] == forgotten


# ---- a machine in one thread ---------------------------------------------------------------


class ClientLab(Lab):
    """A lab with a real client, which may be given orders."""

    def __init__(self) -> None:
        super().__init__()
        self.holder = Client("holder", boot_id=1, key=KEY, page_size=PAGE)
        self.cores[self.holder.name] = self.holder

    def order(self, order: Hold | Load) -> list[object]:
        self._carry_out(self.holder.handle(Command(order), now=self.now))
        self.run()
        return self.result(order)

    def result(self, order: Hold | Load) -> list[object]:
        """The result, or nothing: it is not carried out yet."""
        return [note.result for note in self.noted(OperationEnded) if note.ticket == order.ticket]


def at(ticket: int, pid: int, page: int, shall: tuple[bool, bool]) -> Hold:
    return Hold(ticket, pid, 0, np.array([page * PAGE], np.uint64), *shall)


@pytest.mark.parametrize(
    ("before", "after"), [(LOCK, FREE), (BOTH, PIN)], ids=["locked", "locked and pinned"]
)
def test_a_forced_pass_goes_on_once_the_holder_lets_go_of_the_lock(
    before: tuple[bool, bool], after: tuple[bool, bool]
) -> None:
    # K 1.28.
    lab = ClientLab()
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    assert lab.order(at(1, pid, start, before)) == [None]
    load = Load(9, pid, 0, start * PAGE, 8)
    assert lab.order(load) == [], "a load waits for the page lock, too"
    call = lab.start(migration(0, pid, (0,), (1,)))
    lab.wait(5.0)
    assert lab.answer_to(call) is None, "the forced pass waits for the lock"
    assert len(lab.noted(PassEnded)) == 3, "polite passes failed before it"
    assert lab.order(at(2, pid, start, after)) == [None]
    if after == PIN:
        assert lab.where(pid, start) == [0]
        assert lab.order(at(3, pid, start, FREE)) == [None]
    else:
        assert lab.answer_to(call) is not None
        assert lab.where(pid, start) == [1]
    lab.wait(1.0)
    assert lab.result(load) == [bytes(8)]
    lab.validate()


def test_the_name_from_before_the_polite_passes_is_good_for_letting_go(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 1)
    where = lab.fault(pid, start)
    lab.hold_pages(where, locked=1)
    call = lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    free = HoldPages(where.pfn, where.generation, *held(0, 0))
    assert lab.hold_of(where).generation > where.generation
    assert lab.ask(free, Statuses, node_name(0)).status.tolist() == [0]
    assert lab.answer_to(call) is not None
    assert lab.where(pid, start) == [1]


# ---- a machine of processes ----------------------------------------------------------------


async def test_a_locked_page_moves_once_its_task_unlocks_it(run_directory: Path) -> None:
    # K 1.28.
    with trio.fail_after(30):
        async with numalab.connect(run_directory) as machine:
            task = await machine.spawn()
            address = await task.mmap(machine.page_size)
            await task.store(address, b"kept")
            await task.lock_page(address)
            before = await generation_of_the_held_page(machine)
            left: list[int] = []

            async def migrate() -> None:
                left.append(await task.migrate_pages(task.pid, [0], [1]))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(migrate)
                # Each polite pass that fails gives the frame a new generation; the next one waits.
                while await generation_of_the_held_page(machine) < before + 3:
                    assert not left
                await task.unlock_page(address)
            assert left == [0]
            assert await task.move_pages(task.pid, [address], None) == [1]
            assert await task.load(address, 4) == b"kept"


async def generation_of_the_held_page(machine: Machine) -> int:
    used = await machine.inventory(0)
    (generation,) = used.generation[used.flags & HELD != 0].tolist()
    return int(generation)
