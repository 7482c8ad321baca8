"""Whatever is done to a zone in whatever order, its invariants hold and no frame is lost."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes import layout
from nodes.flags import (
    HELD,
    LOCKED,
    PINNED,
)
from nodes.zone import Zone
from tests.zones import PAGE, U32, flags_of, make, state, u32

FRAMES = 80
ALLOCATIONS = ("new", "touch", "new uncached", "touch uncached")
COMMANDS = ("put", "isolate", "putback", "lock", "unlock", "bump", "hold", "store", "land", "prep")
row = st.tuples(st.integers(0, FRAMES), st.sampled_from((0, 0, 0, 1)), st.integers(0, 3))
step = st.one_of(
    st.tuples(st.sampled_from(ALLOCATIONS), st.integers(0, 40)),
    st.tuples(st.sampled_from(COMMANDS), st.lists(row, max_size=30)),
)


def run(zone: Zone, command: str, rows: list[tuple[int, int, int]], generation: U32) -> None:
    pfn = u32(*(pfn for pfn, _, _ in rows))
    named = generation[pfn] - u32(*(stale for _, stale, _ in rows))
    bits = np.array([bits for _, _, bits in rows], np.uint8)
    match command:
        case "put":
            zone.put_pages(pfn, named)
        case "isolate":
            zone.isolate_lru_page(pfn, named)
        case "putback":
            zone.putback_lru_pages(pfn, named)
        case "lock":
            zone.lock(pfn, named)
        case "unlock":
            zone.unlock(pfn, named, named + 1)
        case "bump":
            zone.set_generation(pfn, named, named + 1)
        case "hold":
            # A stale name lets go only: of a frame named twice that depends on the other row.
            pfn, once = np.unique(pfn, return_index=True)
            zone.hold(pfn, named[once], bits[once] & np.uint8(1), bits[once] >> np.uint8(1))
        case "store":
            zone.store(3, pfn, named, u32(*bits), b"abc" * pfn.size)
        case "land":
            zone.land(pfn, named, bits & np.uint8(1), b"z" * PAGE * pfn.size)
        case "prep":
            zone.migrate_prep()


@settings(max_examples=150, derandomize=True)
@given(st.lists(step, max_size=25))
def test_any_history_keeps_the_invariants_and_every_command_twice_is_once(
    history: list[tuple[str, object]],
) -> None:
    buffer, zone = make(frames=FRAMES)
    for command, argument in history:
        if isinstance(argument, int):
            zeros = np.zeros(argument, np.uint32)
            free = zone.count()["free"]
            status, _, _ = zone.new_pages(
                int(command.startswith("touch")), zeros, zeros, uncached="uncached" in command
            )
            assert int((status == 0).sum()) == min(argument, free)
        else:
            assert isinstance(argument, list)
            generation = np.append(layout.read(buffer).generation, np.uint32(0))
            run(zone, command, argument, generation)
            once = state(buffer, zone)
            run(zone, command, argument, generation)
            assert state(buffer, zone) == once, command
        zone.validate()
        assert zone.count()["free"] + len(flags_of(zone)) == FRAMES
    used, inventory = flags_of(zone), [column.tolist() for column in zone.inventory()]
    assert not any(f & LOCKED and f & (HELD | PINNED) for f in used.values())
    again = Zone.open(buffer)
    again.validate()
    assert [column.tolist() for column in again.inventory()] == inventory
