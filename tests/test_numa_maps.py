"""/proc/PID/numa_maps, token by token (K 6.1 - 6.3)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coordinator.mm import PROT_READ
from protocol.messages import CopyPages
from protocol.profile import MODERN, SEED, Profile
from protocol.syscalls import Description, NumaMaps
from protocol.task_calls import Mlock
from tests.calls import migration
from tests.lab import PAGE, READ, RW, Lab

POPULATE_FILE = 3


def line(lab: Lab, pid: int) -> str:
    """The only line, without the address."""
    (only,) = lab.numa_maps(pid)
    return only.partition(" ")[2]


def test_a_vma_without_pages_ends_after_its_name(lab: Lab) -> None:
    pid = lab.spawn()
    lab.mmap(pid, 4)
    assert line(lab, pid) == "default"


def test_the_address_has_eight_digits_at_least(lab: Lab) -> None:
    pid = lab.spawn()
    low, high = 0x10, lab.mmap(pid, 1)
    lab.mmap(pid, 1, at=low)
    addresses = [text.split()[0] for text in lab.numa_maps(pid)]
    assert addresses == [f"{low * PAGE:08x}", f"{high * PAGE:x}"]
    assert len(addresses[0]) == 8 < len(addresses[1])


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("", "default"),
        ("[heap]", "default heap"),
        ("[stack]", "default stack"),
        ("[anything else]", "default"),
        ("/usr/lib/libm.so", "default file=/usr/lib/libm.so"),
        ("/a b\tc\nd\\e=f", "default file=/a\\040b\\011c\\012d\\e\\075f"),
    ],
)
def test_what_a_vma_is(lab: Lab, name: str, token: str) -> None:
    pid = lab.spawn()
    lab.mmap(pid, 1, name=name)
    assert line(lab, pid) == token


def test_written_anonymous_pages_are_anon_and_dirty_and_so_not_mapped(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 3)
    lab.fault(pid, lab.mmap(pid, 2, at=start + 3), 1, access=READ)
    assert lab.numa_maps(pid)[0].endswith("default anon=3 dirty=3 N0=3")


def test_nodes_come_in_ascending_order(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mmap(pid, 6)
    for offset, cpu in enumerate((3, 1, 1, 0, 3, 3)):
        lab.fault(pid, start + offset, cpu=cpu)
    assert line(lab, pid) == "default anon=6 dirty=6 N0=1 N1=2 N3=3"


def test_a_page_that_others_map_too_shows_the_highest_mapcount(lab: Lab) -> None:
    pid = lab.spawn()
    lab.mapped(pid, 2)
    child = lab.fork(pid)
    lab.fork(child)
    assert line(lab, child) == "default anon=2 dirty=2 mapmax=3 N0=2"


def test_clean_file_pages_are_mapped_and_not_active(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mmap(pid, 3, prot=PROT_READ, name="/bin/true")
    lab.fault(pid, start, 3, access=POPULATE_FILE)
    assert line(lab, pid) == "default file=/bin/true mapped=3 active=0 N0=3"


def test_a_private_file_page_that_was_written_is_anon(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mmap(pid, 3, prot=RW, name="/data")
    lab.fault(pid, start, 3, access=POPULATE_FILE)
    lab.fault(pid, start, 1)
    assert line(lab, pid) == "default file=/data anon=1 dirty=1 mapped=3 active=0 N0=3"


def test_a_shared_file_that_was_written_all_over_is_dirty_and_so_not_mapped(lab: Lab) -> None:
    pid = lab.spawn()
    lab.mapped(pid, 3, shared=True, name="/data")
    assert line(lab, pid) == "default file=/data dirty=3 active=0 N0=3"


def test_the_zero_page_never_shows(lab: Lab) -> None:
    pid = lab.spawn()
    lab.fault(pid, lab.mmap(pid, 2), 2, access=READ)
    assert line(lab, pid) == "default"


def test_pages_under_way_vanish_and_come_back(lab: Lab) -> None:
    """K 6.3."""
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    lab.fault(pid, start + 1, cpu=0)
    lab.hold_back(CopyPages)
    lab.start(migration(0, pid, (0,), (2,)))
    lab.run()
    assert line(lab, pid) == "default"
    lab.let_go(CopyPages)
    assert line(lab, pid) == "default anon=2 dirty=2 N2=2"


def test_a_task_that_is_gone_has_none(lab: Lab) -> None:
    assert lab.ask(NumaMaps(5), Description).value == -3


def test_the_nodes_add_up_to_the_pages_after_any_migration(lab: Lab) -> None:
    pid = lab.spawn()
    start = lab.mapped(pid, 40)
    lab.move(pid, list(range(start, start + 40)), [n % 4 for n in range(40)])
    assert line(lab, pid) == "default anon=40 dirty=40 N0=10 N1=10 N2=10 N3=10"


@pytest.mark.parametrize("profile", [SEED, MODERN], ids=["seed", "modern"])
def test_what_one_mapper_wrote_is_dirty_to_the_other_in_modern(
    make_lab: Callable[..., Lab], profile: Profile
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    start = lab.mapped(pid, 2, shared=True)
    child = lab.fork(pid)
    lab.fault(child, start, 2, access=READ)
    [told] = lab.numa_maps(child)
    assert ("dirty=2" in told) == (profile is MODERN)
    assert ("mapped=2" in told) == (profile is SEED)


def test_pages_that_a_locked_vma_maps_are_active_in_modern(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(profile=MODERN)
    pid = lab.spawn()
    start = lab.mapped(pid, 4)
    assert lab.call(Mlock(pid, start * PAGE, 2 * PAGE)) == 0
    locked, rest = lab.numa_maps(pid)
    assert "active" not in locked
    assert "active=0" in rest


def test_what_fits_into_no_message_is_read_in_pieces(lab: Lab) -> None:
    """Each vma of a file is a line; 300 paths of 4095 bytes, escaped, are more than 4 MiB."""
    pid, count = lab.spawn(), 300
    for number in range(count):
        lab.mmap(pid, 1, name=f"/{number:04}" + " " * 4090, at=0x100 + 2 * number)
    start, pieces = -1, []
    while start:
        told = lab.ask(NumaMaps(pid, max(start, 0)), Description)
        assert len(told.text) <= 1 << 20 and told.text
        pieces.append(told.text)
        start = told.value
    lines = "".join(pieces).splitlines()
    assert [text.split()[0] for text in lines] == [
        f"{(0x100 + 2 * number) * PAGE:08x}" for number in range(count)
    ]
    assert sum(map(len, pieces)) > 1 << 22


def test_a_vma_that_comes_in_between_is_read_if_it_is_above(lab: Lab) -> None:
    pid = lab.spawn()
    for page in (0x100, 0x200):
        lab.mmap(pid, 2, at=page)
    told = lab.ask(NumaMaps(pid, 0x101 * PAGE), Description)
    assert [text.split()[0] for text in told.text.splitlines()] == [
        f"{page * PAGE:08x}" for page in (0x100, 0x200)
    ]
    assert lab.ask(NumaMaps(pid, 0x202 * PAGE), Description).text == ""
