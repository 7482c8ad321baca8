"""The frames of one node: what a kernel reader expects of them, and that nothing is ever lost."""

from __future__ import annotations

import errno
import random

import numpy as np
import pytest

from nodes import layout
from nodes.flags import (
    ACTIVE,
    ALLOCATED,
    FREEING,
    ISOLATED,
    LRU,
    MAPPED,
    Flag,
)
from nodes.zone import PAGEVEC_SIZE, Zone
from tests.zones import PAGE, UUID, flags_of, make, ones, state, touch, u32

# ---- the buffer ----------------------------------------------------------------------------


def test_a_zone_that_is_opened_again_is_the_same() -> None:
    buffer, zone = make()
    pfn, generation = touch(zone, 20)
    zone.store(4, pfn[:1], generation[:1], u32(8), b"abcd")
    zone.put_pages(pfn[5:7], generation[5:7])
    zone.isolate_lru_page(pfn[:2], generation[:2])
    zone.hold(pfn[8:9], generation[8:9], ones(1), ones(1))
    zone.new_pages(1, u32(7, 8), u32(0, 1))
    zone.epoch = 9
    before = state(buffer, zone)
    again = Zone.open(buffer)
    again.validate()
    assert state(buffer, again) == before
    assert (again.nid, again.page_size, again.frames, again.uuid, again.epoch) == (
        3, PAGE, 256, UUID, 9,
    )  # fmt: skip
    status, data = again.load(4, pfn[:1], generation[:1], u32(8))
    assert (status.tolist(), bytes(data)) == ([0], b"abcd")


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (0, b"ELF", "no zone here"),
        (8, b"\x09", "has layout 9"),
        (12, b"\x04", "header is damaged"),
        (16, b"\x80", "header is damaged"),
        (40, b"\xff", "header is damaged"),
    ],
)
def test_a_foreign_or_damaged_header_is_refused_untouched(at: int, value: bytes, says: str) -> None:
    buffer, _ = make()
    buffer[at : at + len(value)] = value
    before = bytes(buffer)
    with pytest.raises(ValueError, match=says):
        Zone.open(buffer)
    assert bytes(buffer) == before


def test_a_buffer_that_is_too_short_or_read_only_is_refused() -> None:
    buffer, _ = make()
    with pytest.raises(ValueError, match="needs"):
        Zone.open(buffer[:-1])
    with pytest.raises(ValueError, match="writable"):
        Zone.open(bytes(buffer))
    with pytest.raises(ValueError, match="needs 256 bytes; here are 0"):
        Zone.open(bytearray())


@pytest.mark.parametrize(
    "wrong",
    [{"nid": 255}, {"page_size": 100}, {"page_size": 32}, {"frames": 0}, {"uuid": b"short"}],
)
def test_a_zone_that_cannot_be_is_not_formatted(wrong: dict[str, object]) -> None:
    buffer = bytearray(1 << 16)
    arguments = {"nid": 0, "page_size": 64, "frames": 16, "uuid": UUID} | wrong
    with pytest.raises(ValueError, match="not"):
        Zone.format(buffer, **arguments)  # type: ignore[arg-type]
    assert not any(buffer)


def test_impossible_flags_are_damage_and_named() -> None:
    buffer, _ = make()
    layout.read(buffer).flags[17] = ALLOCATED | LRU
    before = bytes(buffer)
    with pytest.raises(ValueError, match="frame 17 has flags 0x5"):
        Zone.open(buffer)
    assert bytes(buffer) == before


def test_a_free_that_was_cut_is_finished_when_the_zone_is_opened() -> None:
    buffer, zone = make()
    pfn, generation = touch(zone, 3)
    layout.read(buffer).flags[pfn[1]] = FREEING
    again = Zone.open(buffer)
    again.validate()
    assert again.count()["free"] == 254
    assert again.put_pages(pfn[1:2], generation[1:2]).tolist() == [0]
    assert again.count()["free"] == 254
    _, reused, now = again.new_pages(0, u32(0), u32(0))
    assert (reused[0], now[0]) == (pfn[1], generation[1] + 256)


def test_a_refcount_that_was_cut_is_mended_when_the_zone_is_opened() -> None:
    buffer, zone = make()
    touch(zone, 3)
    layout.read(buffer).refcount[:] = 9
    with pytest.raises(AssertionError, match="refcounts"):
        zone.validate()
    Zone.open(buffer).validate()


def test_the_books_cost_at_most_64_bytes_a_page() -> None:
    assert Zone.size_of(10_000, 4096) - 10_000 * 4096 <= 64 * 10_000
    assert Zone.size_of(1, 4096) == 2 * 4096


def test_a_translation_into_a_lost_zone_does_not_fit_its_replacement() -> None:
    _, zone = make()
    pfn, generation = touch(zone, 1)
    other = Zone.format(
        bytearray(Zone.size_of(4, PAGE)), nid=3, page_size=PAGE, frames=4, uuid=bytes(16)
    )
    touch(other, 4)
    assert other.load(8, pfn, generation, u32(0))[0].tolist() == [-errno.ESTALE]


# ---- allocation ----------------------------------------------------------------------------


def test_large_requests_get_runs_and_small_ones_the_holes() -> None:
    _, zone = make(frames=512)
    pfn, generation = touch(zone, 256)
    assert pfn.tolist() == list(range(256))
    holes = u32(3, 70, 71)
    block = np.arange(192, 256, dtype=np.uint32)
    zone.put_pages(holes, generation[holes])
    assert zone.new_pages(0, u32(*range(128)), u32(*range(128)))[1].tolist() == [*range(256, 384)]
    assert zone.new_pages(0, u32(0, 0, 0, 0), u32(0, 1, 2, 3))[1].tolist() == [3, 70, 71, 384]
    zone.put_pages(block, generation[block])
    assert zone.new_pages(0, u32(0), u32(0))[1].tolist() == [385]
    assert zone.new_pages(0, u32(*range(64)), u32(*range(64)))[1].tolist() == block.tolist()


def test_a_full_zone_gives_what_it_has_and_enomem_for_the_rest() -> None:
    _, zone = make(frames=70)
    status, pfn, _ = zone.new_pages(0, np.zeros(72, np.uint32), np.zeros(72, np.uint32))
    assert status.tolist() == [0] * 70 + [-errno.ENOMEM] * 2
    assert pfn[:70].tolist() == list(range(70))
    assert zone.count()["free"] == 0
    assert zone.new_pages(1, u32(0), u32(0))[0].tolist() == [-errno.ENOMEM]
    zone.validate()


def test_every_free_gives_a_frame_another_incarnation() -> None:
    _, zone = make(frames=1)
    seen = []
    for _ in range(4):
        _, pfn, generation = zone.new_pages(0, u32(0), u32(0))
        seen.append(int(generation[0]))
        zone.put_pages(pfn, generation)
    assert seen == list(range(seen[0], seen[0] + 4 * 256, 256))


def test_a_first_touch_reads_zeros_where_another_page_was() -> None:
    _, zone = make(frames=1)
    pfn, generation = touch(zone, 1)
    zone.store(PAGE, pfn, generation, u32(0), b"\xaa" * PAGE)
    zone.put_pages(pfn, generation)
    pfn, generation = touch(zone, 1)
    assert bytes(zone.load(PAGE, pfn, generation, u32(0))[1]) == bytes(PAGE)


def test_a_frame_that_is_put_is_free_whatever_held_it() -> None:
    _, zone = make()
    pfn, generation = touch(zone, 4)
    zone.isolate_lru_page(pfn[:2], generation[:2])
    zone.lock(pfn[:1], generation[:1])
    zone.hold(pfn[2:3], generation[2:3], ones(1), ones(1))
    assert zone.put_pages(np.repeat(pfn, 2), np.repeat(generation, 2)).tolist() == [0] * 8
    assert zone.put_pages(pfn, generation).tolist() == [0] * 4
    assert (zone.count()["free"], sum(zone.count().values())) == (256, 256)
    zone.validate()


# ---- the LRU -------------------------------------------------------------------------------


def test_lru_adds_wait_for_a_full_pagevec_or_migrate_prep() -> None:
    _, zone = make()
    _, pfn, generation = zone.new_pages(1, np.zeros(13, np.uint32), np.zeros(13, np.uint32))
    assert zone.count()["pending"] == 13
    assert set(zone.isolate_lru_page(pfn, generation).tolist()) == {-errno.EBUSY}
    zone.new_pages(1, np.zeros(16, np.uint32), np.zeros(16, np.uint32))
    assert (zone.count()["active"], zone.count()["pending"]) == (2 * PAGEVEC_SIZE, 1)
    zone.migrate_prep()
    assert (zone.count()["active"], zone.count()["pending"]) == (29, 0)
    assert not zone.isolate_lru_page(pfn, generation).any()


def test_isolation_takes_a_page_off_the_lru_once() -> None:
    buffer, zone = make()
    pfn, generation = touch(zone, 2)
    rows = np.array([1, 0, 1])
    assert zone.isolate_lru_page(pfn[rows], generation[rows]).tolist() == [0, 0, -errno.EBUSY]
    assert flags_of(zone)[1] == Flag(ALLOCATED | MAPPED | ACTIVE | ISOLATED)
    assert layout.read(buffer).refcount[:3].tolist() == [2, 2, 0]
    assert zone.isolate_lru_page(pfn, generation).tolist() == [-errno.EBUSY] * 2
    assert zone.isolate_lru_page(pfn, generation + 1).tolist() == [-errno.ESTALE] * 2


def test_putback_maps_unlocks_and_brings_to_the_lru() -> None:
    _, zone = make()
    pfn, generation = touch(zone, 2)
    zone.isolate_lru_page(pfn, generation)
    zone.lock(pfn, generation)
    _, target, fresh = zone.new_pages(3, u32(5), u32(6))
    both = np.concatenate((pfn, target)), np.concatenate((generation, fresh))
    assert not zone.putback_lru_pages(*both).any()
    count = zone.count()
    assert (count["pending"], count["isolated"], count["locked"]) == (3, 0, 0)
    zone.migrate_prep()
    assert set(flags_of(zone).values()) == {Flag(ALLOCATED | MAPPED | LRU | ACTIVE)}
    assert not zone.putback_lru_pages(*both).any()
    assert zone.count()["active"] == 3


# ---- locks and generations -----------------------------------------------------------------


def test_a_pinned_or_held_page_is_not_locked_and_a_locked_one_not_held() -> None:
    _, zone = make()
    pfn, generation = touch(zone, 4)
    holders = np.array([1, 0, 0], np.uint8), np.array([0, 1, 0], np.uint8)
    assert not zone.hold(pfn[:3], generation[:3], *holders).any()
    assert zone.lock(pfn, generation).tolist() == [-errno.EAGAIN, -errno.EAGAIN, 0, 0]
    assert zone.held(pfn, generation).tolist() == [True, False, False, False]
    wanted = [-errno.EAGAIN, 0, -errno.EAGAIN, -errno.EAGAIN]
    assert zone.load(8, pfn, generation, u32(0, 0, 0, 0))[0].tolist() == wanted
    assert zone.hold(pfn[2:], generation[2:], ones(2), ones(2)).tolist() == [-errno.EAGAIN] * 2
    zone.hold(pfn[:2], generation[:2], 0 * ones(2), 0 * ones(2))
    assert not zone.lock(pfn, generation).any()
    assert zone.count()["locked"] == 4


def test_a_frame_that_no_page_maps_cannot_be_locked_held_or_read() -> None:
    _, zone = make()
    _, pfn, generation = zone.new_pages(0, u32(0), u32(0))
    refused = [-errno.EAGAIN]
    assert zone.lock(pfn, generation).tolist() == refused
    assert zone.mapped(pfn, generation).tolist() == refused
    assert zone.hold(pfn, generation, ones(1), ones(1)).tolist() == refused
    assert zone.load(8, pfn, generation, u32(0))[0].tolist() == refused
    assert zone.store(8, pfn, generation, u32(0), bytes(8)).tolist() == refused


def test_unlocking_says_what_the_generation_is_from_now_on() -> None:
    _, zone = make()
    pfn, generation = touch(zone, 1)
    zone.isolate_lru_page(pfn, generation)
    zone.lock(pfn, generation)
    for _ in range(2):
        assert zone.unlock(pfn, generation, generation + 7).tolist() == [0]
        assert flags_of(zone)[0] == Flag(ALLOCATED | MAPPED | ACTIVE | ISOLATED)
    assert zone.load(8, pfn, generation, u32(0))[0].tolist() == [-errno.ESTALE]
    assert zone.load(8, pfn, generation + 7, u32(0))[0].tolist() == [0]
    assert zone.unlock(pfn, generation + 1, generation + 2).tolist() == [-errno.ESTALE]


def test_a_new_generation_shuts_out_old_translations_and_leaves_the_lock_alone() -> None:
    _, zone = make()
    pfn, generation = touch(zone, 1)
    zone.lock(pfn, generation)
    for _ in range(2):
        assert zone.set_generation(pfn, generation, generation + 1).tolist() == [0]
    assert zone.load(8, pfn, generation, u32(0))[0].tolist() == [-errno.ESTALE]
    assert zone.load(8, pfn, generation + 1, u32(0))[0].tolist() == [-errno.EAGAIN]


# ---- contents ------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["one run", "long runs", "scattered"])
@pytest.mark.parametrize(("size", "start"), [(PAGE, 0), (8, 16), (5, 59)])
def test_what_is_stored_is_loaded(order: str, size: int, start: int) -> None:
    print("seed 11")
    rng = random.Random(11)
    _, zone = make(frames=200)
    pfn, generation = touch(zone, 200)
    rows = np.arange(100)
    if order == "long runs":
        rows = np.concatenate((np.arange(40), np.arange(60, 90), np.arange(100, 150)))
    elif order == "scattered":
        rows = np.array(rng.sample(range(200), 100))
    data = rng.randbytes(rows.size * size)
    where = pfn[rows], generation[rows], np.full(rows.size, start, np.uint32)
    assert not zone.store(size, *where, data).any()
    status, loaded = zone.load(size, *where)
    assert not status.any()
    assert bytes(loaded) == data
    if size == PAGE:
        assert bytes(zone.gather(pfn[rows])) == data
    one = zone.load(size, pfn[rows[7:8]], generation[rows[7:8]], where[2][:1])[1]
    assert bytes(one) == data[7 * size : 8 * size]


def test_a_loaded_copy_does_not_change_with_the_page_but_a_gathered_view_does() -> None:
    _, zone = make()
    pfn, generation = touch(zone, 2)
    loaded = zone.load(PAGE, pfn, generation, u32(0, 0))[1]
    view, copied = zone.gather(pfn), zone.gather(pfn, copy=True)
    zone.store(1, pfn[:1], generation[:1], u32(0), b"x")
    assert (bytes(loaded)[:1], bytes(copied)[:1], bytes(view)[:1]) == (b"\0", b"\0", b"x")


def test_refused_rows_read_zeros_and_change_nothing() -> None:
    _, zone = make()
    pfn, generation = touch(zone, 3)
    zone.store(2, pfn, generation, u32(0, 0, 0), b"aabbcc")
    zone.lock(pfn[1:2], generation[1:2])
    generation[2] += 1
    wanted = [0, -errno.EAGAIN, -errno.ESTALE]
    assert zone.store(2, pfn, generation, u32(0, 0, 0), b"AABBCC").tolist() == wanted
    status, data = zone.load(2, pfn, generation, u32(0, 0, 0))
    assert (status.tolist(), bytes(data)) == (wanted, b"AA\0\0\0\0")
    zone.unlock(pfn[1:2], generation[1:2], generation[1:2])
    generation[2] -= 1
    assert bytes(zone.load(2, pfn, generation, u32(0, 0, 0))[1]) == b"AAbbcc"


def test_an_access_across_the_end_of_a_page_is_einval() -> None:
    _, zone = make()
    pfn, generation = touch(zone, 3)
    starts = u32(PAGE - 8, PAGE - 7, 2**32 - 1)
    wanted = [0, -errno.EINVAL, -errno.EINVAL]
    assert zone.load(8, pfn, generation, starts)[0].tolist() == wanted
    assert zone.store(8, pfn, generation, starts, bytes(24)).tolist() == wanted
    status, data = zone.load(2**63 - 1, pfn, generation, u32(0, 0, 0))
    assert (status.tolist(), bytes(data)) == ([-errno.EINVAL] * 3, b"")
    assert zone.store(8, pfn, generation, starts, bytes(23)).tolist() == [-errno.EINVAL] * 3
    assert zone.load(0, pfn, generation, starts * 0)[0].tolist() == [0, 0, 0]


def test_pages_land_only_in_frames_of_that_generation_that_no_page_maps() -> None:
    _, zone = make()
    pfn, generation = touch(zone, 1)
    _, target, fresh = zone.new_pages(0, u32(0, 0), u32(0, 1))
    where = np.concatenate((pfn, target)), np.concatenate((generation, fresh + u32(0, 1)))
    data = b"a" * PAGE + b"b" * PAGE + b"c" * PAGE
    wanted = [-errno.ESTALE, 0, -errno.ESTALE]
    assert zone.land(*where, ones(3), data).tolist() == wanted
    assert zone.land(*where, ones(3), data).tolist() == wanted
    assert zone.land(*where, ones(3), data[1:]).tolist() == [-errno.EINVAL] * 3
    zone.putback_lru_pages(target, fresh)
    assert zone.land(target, fresh, ones(2), b"d" * 2 * PAGE).tolist() == [-errno.ESTALE] * 2
    loaded = zone.load(PAGE, target[:1], fresh[:1], u32(0))[1]
    assert bytes(loaded) == b"b" * PAGE


def test_a_pfn_that_is_no_frame_is_einval_everywhere() -> None:
    buffer, zone = make(frames=10)
    touch(zone, 10)
    before = state(buffer, zone)
    pfn, generation = u32(10, 2**32 - 1), u32(0, 1)
    wanted = [-errno.EINVAL] * 2
    for answer in (
        zone.put_pages(pfn, generation),
        zone.isolate_lru_page(pfn, generation),
        zone.putback_lru_pages(pfn, generation),
        zone.lock(pfn, generation),
        zone.unlock(pfn, generation, generation),
        zone.set_generation(pfn, generation, generation),
        zone.hold(pfn, generation, ones(2), ones(2)),
        zone.mapped(pfn, generation),
        zone.land(pfn, generation, ones(2), bytes(2 * PAGE)),
        zone.load(8, pfn, generation, u32(0, 0))[0],
        zone.store(8, pfn, generation, u32(0, 0), b"x" * 16),
    ):
        assert answer.tolist() == wanted
    assert state(buffer, zone) == before


def test_no_rows_are_no_work() -> None:
    _, zone = make()
    none = u32()
    assert zone.new_pages(1, none, none)[0].size == 0
    assert zone.put_pages(none, none).size == 0
    assert zone.isolate_lru_page(none, none).size == 0
    assert zone.unlock(none, none, none).size == 0
    assert bytes(zone.load(8, none, none, none)[1]) == b""
    assert zone.store(8, none, none, none, b"").size == 0
    assert bytes(zone.gather(none)) == b""
    zone.validate()
