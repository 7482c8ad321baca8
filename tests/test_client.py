"""A client against a coordinator and nodes that follow a script: frames in lists, time a number."""

from __future__ import annotations

import errno

import numpy as np
import numpy.typing as npt
import pytest

from numalab.client import (
    Ask,
    Fill,
    Forget,
    Hold,
    IndefiniteError,
    Load,
    LoadMany,
    Store,
    StoreMany,
)
from protocol.core import Received
from protocol.messages import (
    Done,
    HoldPages,
    LoadBytes,
    LoadedBytes,
    PutbackLruPages,
    StoreBytes,
)
from protocol.notes import FrameDropped
from protocol.observe import PageActive
from protocol.schema import TEXT_MAX, Message
from protocol.syscalls import (
    Attach,
    Attached,
    CpusetWrite,
    Exit,
    Fault,
    Munmap,
    NumaMaps,
    Renew,
    Spawn,
)
from tests.calls import migration
from tests.peers import PAGE, World, silent


def pages(*numbers: int) -> npt.NDArray[np.uint64]:
    return np.array(numbers, np.uint64)


def failure(result: object) -> int | None:
    assert isinstance(result, OSError), f"{result!r} is no failure"
    return result.errno


def test_what_was_stored_is_loaded_and_one_fault_serves_both() -> None:
    world = World()
    assert world.result(Store(1, 7, 0, 3 * PAGE + 8, b"12345678")) is None
    assert world.result(Load(2, 7, 0, 3 * PAGE + 8, 8)) == b"12345678"
    assert world.asked("coordinator", Fault) == 1


def test_a_cached_reading_translation_does_not_serve_a_store() -> None:
    world = World()
    world.result(Load(1, 7, 0, 3 * PAGE, 8))
    world.result(Store(2, 7, 0, 3 * PAGE, b"12345678"))
    assert world.asked("coordinator", Fault) == 2


def test_an_access_over_several_pages_and_nodes() -> None:
    world = World()
    data = bytes(range(256)) * 2
    for length in (1, PAGE - 5, PAGE - 4, PAGE, PAGE + 60, 2 * PAGE, 3 * PAGE + 4, 5 * PAGE + 7):
        assert world.result(Store(2 * length, 7, 0, 10 * PAGE + 5, data[:length])) is None
        assert world.result(Load(2 * length + 1, 7, 0, 10 * PAGE + 5, length)) == data[:length]


def test_a_large_access_goes_in_bounded_questions() -> None:
    world = World()
    data = np.random.default_rng(1).bytes(8192 * PAGE - 9)
    assert world.result(Store(1, 7, 0, 4, data)) is None
    assert world.result(Load(2, 7, 0, 4, len(data))) == data
    assert world.asked("coordinator", Fault) == 4
    assert world.asked("node0", StoreBytes) <= 20


def test_nothing_is_loaded_from_nowhere() -> None:
    world = World()
    assert world.result(Load(1, 7, 0, 0, 0)) == b""
    assert world.result(Store(2, 7, 0, 0, b"")) is None
    assert world.result(LoadMany(3, 7, 0, pages(), 8)) == b""
    assert world.asked("coordinator", Fault) == 0


def test_the_zero_page_reads_zeros_asks_no_node_and_is_not_cached() -> None:
    world = World()
    world.untouched = {4}
    assert world.result(Load(1, 7, 0, 4 * PAGE, 8)) == bytes(8)
    assert world.asked("node0", LoadBytes) == 0
    world.result(Store(2, 8, 0, 4 * PAGE, b"shared!!"))
    assert world.result(Load(3, 7, 0, 4 * PAGE, 8)) == b"shared!!"


def test_a_stale_translation_is_faulted_again() -> None:
    world = World()
    world.result(Store(1, 7, 0, 2 * PAGE, b"12345678"))
    world.generation[2] = 5
    assert world.result(Load(2, 7, 0, 2 * PAGE, 8)) == b"12345678"
    assert world.asked("coordinator", Fault) == 2


def test_a_page_that_is_held_back_is_asked_again_with_growing_delays() -> None:
    world = World()
    world.refusing[2] = 12
    world.order(Store(1, 7, 0, 2 * PAGE, b"12345678"))
    assert world.asked("node0", StoreBytes) == 3, "three refusals are taken at once"
    waits = []
    while 1 not in world.results:
        due = world.client.next_deadline()
        assert due is not None
        waits.append(round((due - world.now) * 1000))
        world.until(due)
    assert waits == [1, 2, 4, 8, 16, 32, 50, 50, 50, 50]
    assert world.results[1] is None
    assert world.asked("node0", StoreBytes) == 13


def test_only_the_refused_rows_are_stored_again() -> None:
    world = World()
    world.refusing[4] = 1
    assert world.result(Store(1, 7, 0, 0, bytes(8 * PAGE))) is None
    rows = [m.pfn.tolist() for m in world.peers["node0"].asked if isinstance(m, StoreBytes)]
    assert rows == [[0, 2, 4, 6], [4]]


def test_a_load_that_is_served_in_parts_is_whole_in_the_end() -> None:
    world = World()
    data = bytes(range(256)) * 2
    world.result(Store(1, 7, 0, 0, data))
    world.refusing[4] = world.refusing[1] = 2
    assert world.result(Load(2, 7, 0, 0, 8 * PAGE)) == data


def test_a_store_whose_node_restarted_is_indefinite_and_a_load_is_not() -> None:
    world = World()
    world.restart("node0", 1, silent)
    world.order(Store(1, 7, 0, 2 * PAGE, b"12345678"))
    world.order(Load(2, 7, 0, 2 * PAGE, 8))
    assert world.results == {}
    world.restart("node0", 2, world.node(0))
    world.until(world.now + 1)
    assert isinstance(world.results[1], IndefiniteError)
    assert failure(world.results[1]) == errno.EIO
    assert world.results[2] == bytes(8)


def test_a_load_in_many_questions_outlives_restarts_of_its_node() -> None:
    world = World()
    world.restart("node0", 1, silent)
    length = 4096 * PAGE
    world.order(Load(1, 7, 0, 0, length))
    for boot in (2, 3):
        assert world.asked("node0", LoadBytes) == 8, "as many as may be outstanding"
        world.restart("node0", boot, silent if boot == 2 else world.node(0))
        world.until(world.now + 2)
    assert world.results[1] == bytes(length)


def test_a_node_that_never_answers_ends_stores_and_in_the_end_loads() -> None:
    world = World()
    world.restart("node0", 1, silent)
    world.order(Store(1, 7, 0, 2 * PAGE, b"12345678"))
    world.order(Load(2, 7, 0, 2 * PAGE, 8))
    world.until(world.now + 10.5)
    assert isinstance(world.results[1], IndefiniteError)
    assert 2 not in world.results
    world.until(world.now + 60)
    assert failure(world.results[2]) == errno.EIO
    assert not isinstance(world.results[2], IndefiniteError)


def test_a_failing_access_waits_for_the_stores_under_way() -> None:
    world = World()
    world.restart("node1", 1, silent)
    first = 8191 * PAGE
    world.order(StoreMany(1, 7, 0, pages(first, first + PAGE), 8, bytes(16)))
    assert failure(world.results[1]) == errno.EFAULT, "nothing was under way"
    world.order(Store(2, 7, 0, first - 4095 * PAGE, bytes(4097 * PAGE)))
    assert 2 not in world.results, "node1 was asked to store and has not answered"
    world.until(world.now + 11)
    assert isinstance(world.results[2], IndefiniteError)


def test_no_mapping_is_efault() -> None:
    world = World()
    result = world.result(Load(1, 7, 0, 9000 * PAGE, 8))
    assert failure(result) == errno.EFAULT
    assert "0x2328 of task 7" in str(result)
    assert failure(world.result(Load(2, 7, 0, -8, 8))) == errno.EFAULT
    assert failure(world.result(Store(3, 7, 0, (1 << 63) - 4, bytes(8)))) == errno.EFAULT


def test_many_rows_in_one_order_also_in_one_page() -> None:
    world = World()
    places = pages(3 * PAGE, 4 * PAGE + 8, 3 * PAGE + 16)
    assert world.result(StoreMany(1, 7, 0, places, 8, b"aaaaaaaabbbbbbbbcccccccc")) is None
    assert world.result(LoadMany(2, 7, 0, places[::-1], 8)) == b"ccccccccbbbbbbbbaaaaaaaa"
    assert failure(world.result(LoadMany(3, 7, 0, pages(PAGE - 4), 8))) == errno.EINVAL
    assert failure(world.result(StoreMany(4, 7, 0, places, 8, bytes(23)))) == errno.EINVAL


@pytest.mark.parametrize(("file", "access"), [(False, 2), (True, 3)])
def test_an_image_is_filled_in_whatever_the_protection(file: bool, access: int) -> None:
    world = World()
    data = bytes(range(128))
    assert world.result(Fill(1, 7, 0, pages(5, 9), file, data)) is None
    faults = [m for m in world.peers["coordinator"].asked if isinstance(m, Fault)]
    assert [fault.access for fault in faults] == [access]
    assert world.result(Load(2, 7, 0, 9 * PAGE, PAGE)) == data[PAGE:]


def test_holding_says_what_shall_hold_and_passes_over_the_zero_page() -> None:
    world = World()
    world.untouched = {6}
    assert world.result(Hold(1, 7, 0, pages(2 * PAGE + 1, 6 * PAGE), True, False)) is None
    (held,) = world.peers["node0"].asked
    assert isinstance(held, HoldPages)
    assert (held.pfn.tolist(), held.locked.tolist(), held.pinned.tolist()) == ([2], [1], [0])


@pytest.mark.parametrize("call", [Munmap(7, 0, PAGE), Exit(7)])
def test_a_call_that_takes_rights_away_empties_the_cache(call: Message) -> None:
    world = World()
    world.result(Load(1, 7, 0, 2 * PAGE, 8))
    world.result(Load(2, 8, 0, 2 * PAGE, 8))
    world.result(Ask(3, "coordinator", call))
    world.result(Load(4, 8, 0, 2 * PAGE, 8))
    assert world.asked("coordinator", Fault) == 2, "the other task keeps its translations"
    world.result(Load(5, 7, 0, 2 * PAGE, 8))
    assert world.asked("coordinator", Fault) == 3


def test_a_question_to_a_restarted_coordinator() -> None:
    world = World()
    world.result(Ask(1, "coordinator", Munmap(7, 0, PAGE)))
    world.restart("coordinator", 1, silent)
    world.order(Ask(2, "coordinator", migration(7, 7, (0,), (1,))))
    world.order(Ask(3, "coordinator", NumaMaps(7)))
    world.order(Load(4, 7, 0, 2 * PAGE, 8))
    world.restart("coordinator", 2, world.coordinate)
    world.until(world.now + 1)
    assert isinstance(world.results[2], IndefiniteError)
    assert failure(world.results[2]) == errno.ENODEV
    assert isinstance(world.results[3], Done), "an idempotent question is asked again"
    assert world.results[4] == bytes(8), "a fault is asked again"


def test_a_question_may_have_a_limit() -> None:
    world = World()
    world.restart("coordinator", 1, silent)
    world.order(Ask(1, "coordinator", NumaMaps(7), within=2.0))
    world.until(world.now + 1.9)
    assert 1 not in world.results
    world.until(world.now + 0.2)
    assert isinstance(world.results[1], IndefiniteError)
    assert failure(world.results[1]) == errno.EAGAIN


@pytest.mark.parametrize(
    "message",
    [
        Munmap(-1, 0, -PAGE),
        Munmap(1 << 70, 0, PAGE),
        Fault(7, 0, 9, pages(1)),
        PageActive(np.array(["a page"])),
        PutbackLruPages(np.zeros(2, np.uint32), np.zeros(1, np.uint32)),
        Spawn(0, 0, 1, 0, "x" * (TEXT_MAX + 1)),
        CpusetWrite(0, *["x" * TEXT_MAX] * 3),
        Done(0),
    ],
    ids=["length", "pid", "access", "dtype", "columns", "text", "all", "no question"],
)
def test_a_question_that_its_peer_would_drop_is_einval_and_not_asked(message: Message) -> None:
    with pytest.raises(OSError) as caught:
        Ask(1, "coordinator", message)
    assert caught.value.errno == errno.EINVAL


def test_an_access_of_a_task_that_no_message_names_is_einval() -> None:
    world = World()
    assert failure(world.result(Load(1, 1 << 70, 0, PAGE, 8))) == errno.EINVAL
    assert failure(world.result(Store(2, 7, -1, PAGE, b"x"))) == errno.EINVAL
    assert failure(world.result(Hold(3, 7, 1 << 64, pages(PAGE), True, False))) == errno.EINVAL
    assert world.asked("coordinator", Fault) == 0


def test_a_lease_is_renewed_in_thirds_and_taken_anew_after_a_restart() -> None:
    world = World()

    def lease(message: Message) -> Message:
        return Attached((), (), PAGE, 9.0) if isinstance(message, Attach) else Done(0)

    world.restart("coordinator", 1, lease)
    world.result(Ask(1, "coordinator", Attach()))
    world.until(world.now + 9.5)
    assert world.asked("coordinator", Renew) == 3
    world.restart("coordinator", 2, lease)
    world.until(world.now + 6.5)
    assert [type(message) for message in world.peers["coordinator"].asked] == [Attach, Renew]


def test_a_lease_that_ran_out_is_taken_anew() -> None:
    world = World()

    def forgetful(message: Message) -> Message:
        attaching = isinstance(message, Attach)
        return Attached((), (), PAGE, 9.0) if attaching else Done(-errno.ESRCH)

    world.restart("coordinator", 1, forgetful)
    world.result(Ask(1, "coordinator", Attach()))
    world.until(world.now + 3.5)
    asked = [type(message) for message in world.peers["coordinator"].asked]
    assert asked == [Attach, Renew, Attach]


def test_a_forgotten_order_reports_nothing_and_leaves_nothing() -> None:
    world = World()
    world.restart("node0", 1, silent)
    world.restart("coordinator", 1, lambda m: world.coordinate(m) if type(m) is Fault else None)
    world.order(Load(1, 7, 0, 2 * PAGE, 8))
    world.order(Ask(2, "coordinator", NumaMaps(7)))
    world.order(Forget(1))
    world.order(Forget(2))
    assert world.client.next_deadline() is None
    world.restart("node0", 2, world.node(0))
    world.until(world.now + 60)
    assert world.results == {}


def test_an_answer_that_does_not_fit_is_not_believed() -> None:
    world = World()
    world.restart("node0", 1, lambda m: LoadedBytes(np.zeros(1, np.int32), b"short"))
    assert failure(world.result(Load(1, 7, 0, 2 * PAGE, 8))) == errno.EIO
    world.restart("coordinator", 1, lambda m: Done(-errno.ESRCH))
    assert failure(world.result(Load(2, 9, 0, 2 * PAGE, 8))) == errno.ESRCH


def test_foreign_bytes_are_counted_and_dropped() -> None:
    world = World()
    world.carry(world.client.handle(Received((b"not a message",)), now=world.now))
    assert [type(note) for note in world.notes] == [FrameDropped]
