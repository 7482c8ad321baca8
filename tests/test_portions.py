"""Four chunks at a time: what nobody waits for costs a migration one question for all of them."""

from __future__ import annotations

from collections.abc import Callable

from protocol.messages import CopyPages, IsolateLruPage, NewPages, PutbackLruPages, PutPages
from tests.calls import migration
from tests.filing import create, touched
from tests.lab import Lab
from tests.test_migrate import row_of

MakeLab = Callable[..., Lab]


def test_four_chunks_are_isolated_given_frames_and_released_by_one_question_each(
    make_lab: MakeLab,
) -> None:
    lab = make_lab(chunk_pages=4)
    pid = lab.spawn()
    lab.mapped(pid, 40)
    before = lab.asked(NewPages)
    assert lab.migrate(pid, 0, 1) == 0
    assert [lab.asked(cls) for cls in (IsolateLruPage, PutPages)] == [3, 3]
    assert lab.asked(NewPages) - before == 3
    assert [lab.asked(cls) for cls in (CopyPages, PutbackLruPages)] == [10, 10]


def test_old_frames_are_put_as_soon_as_no_more_are_to_follow(make_lab: MakeLab) -> None:
    lab = make_lab(chunk_pages=4)
    pid = lab.spawn()
    start = lab.mapped(pid, 16)
    lab.hold_back(CopyPages)
    lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    lab.let_pass(CopyPages)
    # Of eight that are served by their target, none is put: eight more are being copied.
    assert lab.where(pid, start, 8) == [1] * 8 and lab.free()[0] == 240
    lab.let_go(CopyPages)
    assert lab.free()[0] == 256


def test_long_chunks_are_copied_in_halves_of_which_three_are_under_way(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, frames=3 * 2048, chunk_pages=2048)
    pid = lab.spawn()
    start = lab.mapped(pid, 2 * 2048)
    lab.hold_back(CopyPages)
    lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    assert [asked.pfn.size for asked in lab.held(CopyPages)] == [1024] * 3
    lab.let_go(CopyPages)
    assert lab.asked(CopyPages) == 4 and lab.where(pid, start, 4096) == [1] * 4096


def test_a_forced_pass_puts_old_frames_though_a_page_is_still_waited_for(
    make_lab: MakeLab,
) -> None:
    lab = make_lab(chunk_pages=1)
    pid = lab.spawn()
    where = lab.fault(pid, lab.mapped(pid, 2), 2)
    lab.hold_pages(where, locked=1)
    lab.start(migration(0, pid, (0,), (1,)))
    lab.run()
    assert lab.free()[0] == 254
    lab.hold_pages(row_of(where, 0), locked=0)
    assert lab.free()[0] == 255


def test_where_frames_are_few_pages_go_chunk_by_chunk_and_there_is_room_for_all(
    make_lab: MakeLab,
) -> None:
    # Four free frames on each node, and of each chunk one page goes either way.
    lab = make_lab(nodes=2, frames=18, chunk_pages=2)
    pid = lab.spawn()
    here, there = lab.mapped(pid, 14, cpu=0), lab.mapped(pid, 14, cpu=1)
    pages = [page for offset in range(14) for page in (here + offset, there + offset)]
    moved = lab.move(pid, pages, [1, 0] * 14)
    assert moved.value == 0 and moved.status.tolist() == [1, 0] * 14


def test_a_list_with_pages_of_a_file_goes_chunk_by_chunk(make_lab: MakeLab) -> None:
    lab = make_lab(chunk_pages=4)
    create(lab, pages=16)
    pid = lab.spawn()
    lab.mapped(pid, 16)
    before = lab.asked(NewPages)
    assert lab.migrate(pid, 0, 1) == 0
    assert lab.asked(NewPages) - before == 1, "none of its pages is of that file"
    touched(lab, pid, 16)
    before = lab.asked(NewPages)
    assert lab.migrate(pid, 0, 1) == 0
    assert lab.asked(NewPages) - before == 4
