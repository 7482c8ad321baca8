"""The header, name by name: what include/linux/migrate.h of June 2006 promises (K 0.1-0.4, 2)."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coordinator import migrate_off
from coordinator.extensions import Extensions
from coordinator.mem_map import Rows
from coordinator.memory import Memory
from coordinator.migrate import fail_migrate_page, migrate_page, migrate_vmas
from coordinator.mm import MAP_PRIVATE, Mapping, Mm, Vma, VmOperations
from coordinator.pagelist import Nodes, PageList, new_page_t
from nodes.flags import Flag
from protocol.messages import IsolateLruPage, NewPages
from protocol.profile import SEED
from protocol.syscalls import MovedPages
from protocol.topology import Topology
from tests.calls import migration, moving
from tests.lab import PAGE, Lab
from tests.zones import flags_of, make, ones, touch, u32

ROOT = Path(__file__).parent.parent
MakeLab = Callable[..., Lab]
EVERYTHING = frozenset({0}), frozenset({1})

# ---- the table in the documentation (K 0.1 - 0.3) ------------------------------------------

HEADER = {
    "y": {
        "new_page_t",
        "isolate_lru_page",
        "putback_lru_pages",
        "migrate_page",
        "fail_migrate_page",
        "migrate_pages",
        "migrate_prep",
        "migrate_vmas",
    },
    "n": {
        "isolate_lru_page",
        "putback_lru_pages",
        "migrate_pages",
        "migrate_pages_to",
        "migrate_prep",
        "migrate_vmas",
        "migrate_page",
        "fail_migrate_page",
    },
}


def rows_of_the_page() -> Iterator[tuple[str, str, str, str]]:
    """(y or n, name, place, test) of each row of docs/migrate-h.md."""
    built = ""
    for line in (ROOT / "docs" / "migrate-h.md").read_text().splitlines():
        if heading := re.fullmatch(r"## CONFIG_MIGRATION=(\w)", line):
            built = heading[1]
        if row := re.fullmatch(r"\| `(\w+)` \| .+ \| `(\S+)` \| `(\S+)` \|", line):
            yield built, row[1], row[2], row[3]


def test_the_page_has_every_name_of_the_header_once() -> None:
    # K 0.2, 0.3.
    for built, names in HEADER.items():
        listed = [name for where, name, *_ in rows_of_the_page() if where == built]
        assert sorted(listed) == sorted(names)


def test_every_name_is_where_the_page_says() -> None:
    for _, name, place, _ in rows_of_the_page():
        defined = re.compile(rf"^(    )?(def {name}\(|{name} = )", re.MULTILINE)
        assert defined.search((ROOT / place).read_text()), f"{place} does not define {name}"


def test_every_name_has_the_test_that_the_page_says() -> None:
    for _, name, _, test in rows_of_the_page():
        path, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / path).read_text(), f"{name}: there is no {test}"


# ---- isolate_lru_page, putback_lru_pages, migrate_prep at the node (K 1.13, 1.16, 1.22) ----


def test_isolate_lru_page_takes_a_page_off_its_lru_once() -> None:
    # K 1.16.
    _, zone = make()
    pfn, generation = touch(zone, 2)
    assert zone.isolate_lru_page(pfn[:1], generation[:1]).tolist() == [0]
    before = flags_of(zone)
    assert zone.isolate_lru_page(pfn[:1], generation[:1]).tolist() == [-errno.EBUSY]
    assert flags_of(zone) == before
    assert Flag.ISOLATED in before[int(pfn[0])] and Flag.LRU not in before[int(pfn[0])]
    assert Flag.ACTIVE in before[int(pfn[0])], "whether it was active is not forgotten"
    assert zone.count()["active"] == 1
    zone.validate()


def test_isolate_lru_page_refuses_what_is_not_on_the_lru() -> None:
    # K 1.16, 3.10.
    _, zone = make()
    status, pfn, generation = zone.new_pages(0, u32(1), u32(0))
    assert status.tolist() == [0]
    assert zone.isolate_lru_page(pfn, generation).tolist() == [-errno.EBUSY]


def test_putback_lru_pages_puts_back_what_was_isolated() -> None:
    # K 1.22.
    _, zone = make()
    pfn, generation = touch(zone, 3)
    zone.isolate_lru_page(pfn, generation)
    for _ in range(2):
        assert zone.putback_lru_pages(pfn, generation).tolist() == [0, 0, 0]
        assert zone.count()["isolated"] == 0
    zone.migrate_prep()
    assert zone.isolate_lru_page(pfn, generation).tolist() == [0, 0, 0]


def test_migrate_prep_makes_pending_pages_isolatable() -> None:
    # K 1.13.
    _, zone = make()
    _, pfn, generation = zone.new_pages(1, u32(1, 1), u32(0, 1))
    assert zone.count()["pending"] == 2
    assert zone.isolate_lru_page(pfn, generation).tolist() == [-errno.EBUSY] * 2
    zone.migrate_prep()
    assert zone.count()["pending"] == 0
    assert zone.isolate_lru_page(pfn, generation).tolist() == [0, 0]


def test_a_page_with_other_users_can_be_isolated() -> None:
    """Pins and locks are seen by the pass, not by the scan (K 1.48)."""
    _, zone = make()
    pfn, generation = touch(zone, 1)
    zone.hold(pfn, generation, ones(1), ones(1))
    assert zone.isolate_lru_page(pfn, generation).tolist() == [0]


# ---- new_page_t, and the methods of an object ----------------------------------------------


def with_callback(make_lab: MakeLab, callback: new_page_t) -> Lab:
    """A machine into which this callback was loaded, as "mine"."""
    topology = Topology.uniform(4, 256 * PAGE, page_size=PAGE)
    extensions = Extensions(topology)
    extensions.new_page("mine", callback)
    return make_lab(topology=topology, extensions=extensions)


def test_migrate_pages_does_not_know_where_pages_go(
    make_lab: MakeLab,
) -> None:
    # K 0.1.
    """Any callback will do: this one deals the pages out like cards."""

    def deal(pagelist: PageList, rows: Rows, private: object) -> Nodes:
        assert private == 1, "handed through untouched"
        return (1 + rows % 3).astype(np.int32)

    lab = with_callback(make_lab, deal)
    pid = lab.spawn()
    start = lab.mapped(pid, 6)
    assert lab.call(migration(0, pid, (0,), (1,), "mine")) == 0
    assert lab.where(pid, start, 6) == [1, 2, 3, 1, 2, 3]


def test_a_callback_that_has_no_page_for_us_ends_the_call(
    make_lab: MakeLab,
) -> None:
    # K 0.1.
    def none_for_the_second(pagelist: PageList, rows: Rows, private: object) -> Nodes:
        return np.where(rows == 1, -1, 2).astype(np.int32)

    lab = with_callback(make_lab, none_for_the_second)
    pid = lab.spawn()
    start = lab.mapped(pid, 3)
    assert lab.call(migration(0, pid, (0,), (2,), "mine")) == -errno.ENOMEM
    assert lab.where(pid, start, 3) == [2, 0, 0]


def test_migrate_page_lets_pages_go_and_fail_migrate_page_does_not() -> None:
    # K 1.52, 1.54.
    mapping = Mapping(1, shared=False)
    assert migrate_page(mapping, 2).tolist() == [0, 0]
    assert fail_migrate_page(mapping, 2).tolist() == [-errno.EIO] * 2


# ---- migrate_vmas (K 2) --------------------------------------------------------------------


class Hooks:
    """vm_operations that write down who was asked what, and answer as they were told."""

    def __init__(self, **results: int) -> None:
        self.results = results
        self.asked: list[tuple[str, set[int], set[int], int]] = []

    def __call__(
        self, memory: Memory, vma: Vma, old: frozenset[int], new: frozenset[int], flags: int
    ) -> int:
        self.asked.append((vma.name, set(old), set(new), flags))
        return self.results.get(vma.name, 0)

    @property
    def names(self) -> list[str]:
        return [name for name, *_ in self.asked]

    def of(self, *names: str) -> dict[str, VmOperations]:
        return {name: VmOperations(self) for name in names}


def test_hooks_are_called_in_address_order_before_any_page_moves(make_lab: MakeLab) -> None:
    # K 2.2, and from comes before to (K 2.3).
    hooks = Hooks()
    lab = make_lab(vm_operations=hooks.of("low", "high"))
    pid = lab.spawn()
    for name, at in (("high", 0x300), ("plain", 0x200), ("low", 0x100)):
        lab.mapped(pid, 1, name=name, at=at)
    lab.hold_back(IsolateLruPage)
    call = lab.start(migration(0, pid, (0, 2), (1, 3)))
    lab.run()
    assert hooks.asked == [("low", {0, 2}, {1, 3}, 4), ("high", {0, 2}, {1, 3}, 4)]
    lab.let_go(IsolateLruPage)
    assert lab.answer_to(call) is not None
    assert [lab.where(pid, at)[0] for at in (0x100, 0x200, 0x300)] == [1, 1, 1]


def test_a_caller_without_the_capability_passes_move_to_the_hook(make_lab: MakeLab) -> None:
    # K 2.2.
    hooks = Hooks()
    lab = make_lab(vm_operations=hooks.of("low"))
    pid = lab.spawn(uid=5, capable=False)
    lab.mmap(pid, 1, name="low")
    assert lab.migrate(pid, 0, 1, caller=pid) == 0
    assert [flags for *_, flags in hooks.asked] == [2], "also the only vma of an mm is offered"


def test_an_error_stops_the_walk_and_no_page_moves(make_lab: MakeLab) -> None:
    # K 2.5, 2.6.
    hooks = Hooks(b=-errno.EINVAL)
    lab = make_lab(vm_operations=hooks.of("a", "b", "c"))
    pid = lab.spawn()
    starts = [lab.mapped(pid, 1, name=name) for name in "abc"]
    assert lab.migrate(pid, 0, 1) == -errno.EINVAL
    assert hooks.names == ["a", "b"]
    assert [lab.where(pid, start)[0] for start in starts] == [0, 0, 0]
    assert not lab.asked(NewPages, "node1")


def test_a_positive_answer_stops_it_all_and_the_call_says_zero(make_lab: MakeLab) -> None:
    # K 2.5.
    hooks = Hooks(a=3)
    lab = make_lab(vm_operations=hooks.of("a", "b"))
    pid = lab.spawn()
    start = lab.mapped(pid, 1, name="a")
    lab.mmap(pid, 1, name="b")
    assert lab.migrate(pid, 0, 1) == 0
    assert hooks.names == ["a"] and lab.where(pid, start) == [0]


def test_the_last_vma_is_left_out_where_the_profile_says_so(make_lab: MakeLab) -> None:
    # K 2.4.
    hooks = Hooks()
    quirk = replace(SEED, name="quirk", last_vma_skipped=True)
    lab = make_lab(vm_operations=hooks.of("a", "b"), profile=quirk)
    pid = lab.spawn()
    lab.mmap(pid, 1, name="a")
    assert lab.migrate(pid, 0, 1) == 0 and hooks.names == []
    lab.mmap(pid, 1, name="b")
    assert lab.migrate(pid, 0, 1) == 0 and hooks.names == ["a"]


def test_an_mm_without_vmas_is_no_error(lab: Lab) -> None:
    # K 2.4.
    assert lab.migrate(lab.spawn(), 0, 1) == 0


def test_move_pages_does_not_ask_the_hooks(make_lab: MakeLab) -> None:
    # K 2.1.
    hooks = Hooks(a=-errno.EINVAL)
    lab = make_lab(vm_operations=hooks.of("a"))
    pid = lab.spawn()
    start = lab.mapped(pid, 1, name="a")
    assert lab.move(pid, [start], [1]).status.tolist() == [1] and not hooks.asked


def test_the_masks_are_keywords_because_header_and_definition_disagreed() -> None:
    # K 2.3.
    """K 2.3: whoever swaps them is told so, and does not get a wrong migration."""
    memory = Memory(Topology.uniform(2, PAGE, page_size=PAGE))
    with pytest.raises(TypeError):
        migrate_vmas(memory, Mm(1), *EVERYTHING, 4, SEED)  # type: ignore[call-arg]


# ---- CONFIG_MIGRATION=n (K 0.3, 0.4) -------------------------------------------------------


def test_the_stubs_are_not_uniformly_enosys() -> None:
    # K 0.3.
    pages, mm = PageList(1), Mm(1)
    old, new = EVERYTHING
    called: list[int] = []
    operations = VmOperations(lambda *_: called.append(1) or 0)  # type: ignore[func-returns-value]
    vma = Vma(0, 1, 3, MAP_PRIVATE, "", 0, Mapping(1, shared=False))
    vma.vm_ops = operations
    mm.insert(vma)
    assert migrate_off.isolate_lru_page(0, pages) == -errno.ENOSYS
    assert migrate_off.putback_lru_pages(pages) == 0
    assert migrate_off.migrate_pages(pages, None, 0) == -errno.ENOSYS
    assert migrate_off.migrate_pages_to(pages, None, 0) == 0
    assert migrate_off.migrate_prep() == -errno.ENOSYS
    masks = {"from_nodes": old, "to_nodes": new, "flags": 4}
    assert migrate_off.migrate_vmas(mm, **masks) == -errno.ENOSYS  # type: ignore[arg-type]
    assert migrate_off.migrate_page is None and migrate_off.fail_migrate_page is None
    assert not called


def test_migrate_pages_checks_its_arguments_and_then_is_not_there(make_lab: MakeLab) -> None:
    # K 0.4.
    lab = make_lab(migration=False)
    pid, stranger = lab.spawn(uid=1), lab.spawn(uid=2, capable=False)
    start = lab.mapped(pid, 1)
    assert lab.migrate(99, 0, 1) == -errno.ESRCH
    assert lab.migrate(pid, 0, 1, caller=stranger) == -errno.EPERM
    assert lab.migrate(pid, 0, 9) == -errno.EINVAL
    assert lab.migrate(pid, 0, 1) == -errno.ENOSYS
    assert lab.vma(pid, start).nid.tolist() == [0]


def test_move_pages_is_absent_before_any_check(make_lab: MakeLab) -> None:
    # K 0.4.
    lab = make_lab(migration=False)
    for flags in (0, 64):
        assert lab.move(99, [1], [77], flags).value == -errno.ENOSYS
    query = moving(lab.spawn(), [1], None)
    assert lab.ask(query, MovedPages).value == -errno.ENOSYS


def test_all_else_works_without_migration(make_lab: MakeLab) -> None:
    # K 0.4.
    lab = make_lab(migration=False)
    pid = lab.spawn()
    start = lab.mapped(pid, 2)
    lab.write(pid, start, 11)
    child = lab.fork(pid)
    lab.write(child, start, 12)
    assert (lab.read(pid, start), lab.read(child, start)) == (11, 12)
