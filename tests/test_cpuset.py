"""The cpuset file system: directories, attribute files, who may attach what (CS-16, 17, 19)."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from coordinator.cpuset import mems_allowed
from coordinator.replay import differences, replay
from protocol.profile import MODERN, SEED, Profile
from tests.cpusets import cat, cpuset, mkdir, rmdir, write
from tests.lab import Lab

Labs = Callable[..., Lab]
BOTH = pytest.mark.parametrize("profile", [SEED, MODERN], ids=lambda profile: profile.name)


def test_the_top_cpuset_has_everything(lab: Lab) -> None:
    pid = lab.spawn()
    child = lab.fork(pid)
    for task in (lab.memory.tasks[pid], lab.memory.tasks[child]):
        assert mems_allowed(lab.memory, task) == frozenset(range(4))
    assert cat(lab, "/", "mems") == cat(lab, "/", "cpus") == "0-3"
    assert cat(lab, "/", "mem_exclusive") == cat(lab, "/", "cpu_exclusive") == "1"
    assert cat(lab, "/", "tasks") == f"{pid}\n{child}"


# ---- directories -------------------------------------------------------------------------------


def test_a_new_cpuset_is_empty_and_listed_in_its_parent(lab: Lab) -> None:
    assert mkdir(lab, "/a") == 0
    assert mkdir(lab, "/a/b") == 0
    assert [cat(lab, "/a/b", name) for name in ("cpus", "mems", "tasks")] == ["", "", ""]
    assert "a/" in cat(lab, "/", "").splitlines()
    assert cat(lab, "/a", "").splitlines() == [
        *("cpu_exclusive", "cpus", "mem_exclusive", "memory_migrate", "mems", "tasks"),
        "b/",
    ]


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/a", errno.EEXIST),
        ("/", errno.EEXIST),
        ("/a/mems", errno.EEXIST),
        ("/x/y", errno.ENOENT),
        ("/a/", errno.EINVAL),
        ("a", errno.EINVAL),
        ("/a/..", errno.EINVAL),
        ("/a/" + "x" * 256, errno.ENAMETOOLONG),
    ],
)
def test_what_mkdir_refuses(lab: Lab, path: str, error: int) -> None:
    assert mkdir(lab, "/a") == 0
    assert mkdir(lab, path) == -error


def test_rmdir_is_ebusy_with_tasks_or_children(lab: Lab) -> None:
    cpuset(lab, "/a", mems="0-1")
    pid = lab.spawn()
    assert mkdir(lab, "/a/b") == 0
    assert rmdir(lab, "/a") == -errno.EBUSY
    assert rmdir(lab, "/a/b") == 0
    assert write(lab, "/a", "tasks", pid) == 0
    assert rmdir(lab, "/a") == -errno.EBUSY
    assert lab.exit(pid) == 0
    assert rmdir(lab, "/a") == 0
    assert rmdir(lab, "/a") == -errno.ENOENT
    assert rmdir(lab, "/") == -errno.EBUSY


def test_the_files_belong_to_root(lab: Lab) -> None:
    root, user = lab.spawn(uid=0), lab.spawn(uid=1000, capable=True)
    assert mkdir(lab, "/a", caller=user) == -errno.EACCES
    assert mkdir(lab, "/a", caller=root) == 0
    assert write(lab, "/a", "mems", "1", caller=user) == -errno.EACCES
    assert write(lab, "/a", "mems", "1", caller=root) == 0
    assert rmdir(lab, "/a", caller=user) == -errno.EACCES


def test_names_with_the_prefix_of_a_cgroup_are_the_same_files(lab: Lab) -> None:
    assert mkdir(lab, "/a") == 0
    assert write(lab, "/a", "cpuset.mems", "2") == 0
    assert cat(lab, "/a", "mems") == cat(lab, "/a", "cpuset.mems") == "2"
    assert write(lab, "/a", "cpuset.tasks", "1") == -errno.ENOENT
    assert write(lab, "/a", "swappiness", "1") == -errno.ENOENT
    assert write(lab, "/b", "mems", "1") == -errno.ENOENT


# ---- lists -------------------------------------------------------------------------------------

EINVAL, ERANGE, E2BIG = -errno.EINVAL, -errno.ERANGE, -errno.E2BIG
EOVERFLOW = -errno.EOVERFLOW
#: What is written to mems of an empty cpuset of four nodes, and what it then reads as, or -errno.
MEMS: list[tuple[str, str | int, str | int]] = [
    ("", EINVAL, ""),
    ("0", "0", "0"),
    ("0-3", "0-3", "0-3"),
    ("0,1,2,3", "0-3", "0-3"),
    ("0,0", "0", "0"),
    ("0-0", "0", "0"),
    ("3,0-1", "0-1,3", "0-1,3"),
    ("0-2,", "0-2", "0-2"),
    ("4", "", EINVAL),
    ("0,1,4", "0-1", EINVAL),
    ("0-4", "0-3", EINVAL),
    ("-1", EINVAL, EINVAL),
    ("0--4", EINVAL, EINVAL),
    ("0AAA", EINVAL, EINVAL),
    ("AAA", EINVAL, EINVAL),
    ("0-", EINVAL, EINVAL),
    ("2-1", EINVAL, EINVAL),
    (",", EINVAL, ""),
    ("0,,1", EINVAL, "0-1"),
    ("0 1", EINVAL, "0-1"),
    ("0-3:1/2", EINVAL, "0,2"),
    ("0-3:3/2", EINVAL, EINVAL),
    ("0-1024", ERANGE, ERANGE),
    ("0-1023", "0-3", EINVAL),
    ("4294967296", ERANGE, EOVERFLOW),
    ("9" * 5000, ERANGE, EOVERFLOW),
    ("0," * 4000, E2BIG, E2BIG),
]


@pytest.mark.parametrize(("text", "seed", "modern"), MEMS, ids=[text[:9] for text, *_ in MEMS])
@BOTH
def test_cs_16_lists(
    make_lab: Labs, profile: Profile, text: str, seed: str | int, modern: str | int
) -> None:
    lab = make_lab(profile=profile)
    assert mkdir(lab, "/a") == 0
    expected = seed if profile is SEED else modern
    value = write(lab, "/a", "mems", text)
    assert (value or cat(lab, "/a", "mems")) == expected
    if value:
        assert cat(lab, "/a", "mems") == ""


@pytest.mark.parametrize(
    ("profile", "blank", "unknown"), [(SEED, EINVAL, -28), (MODERN, 0, EINVAL)]
)
def test_cs_16_a_list_without_any_node_over_one_that_has_some(
    make_lab: Labs, profile: Profile, blank: int, unknown: int
) -> None:
    lab = make_lab(profile=profile)
    cpuset(lab, "/a", mems="0-1", cpus="0-1")
    for name in ("mems", "cpus"):
        assert write(lab, "/a", name, "7") == unknown
        assert cat(lab, "/a", name) == "0-1"
        assert write(lab, "/a", name, "") == blank
        assert cat(lab, "/a", name) == ("0-1" if blank else "")


def test_k_5_14_a_cpuset_with_tasks_keeps_some_cpus_and_nodes(make_lab: Labs) -> None:
    lab = make_lab(profile=MODERN)
    cpuset(lab, "/a", mems="0-1")
    assert write(lab, "/a", "tasks", lab.spawn()) == 0
    for name in ("mems", "cpus"):
        assert write(lab, "/a", name, "") == -errno.ENOSPC


@pytest.mark.parametrize(("profile", "value"), [(SEED, 0), (MODERN, -errno.EACCES)])
def test_the_top_cpuset_is_writable_at_the_seed(
    make_lab: Labs, profile: Profile, value: int
) -> None:
    lab = make_lab(profile=profile)
    assert write(lab, "/", "mems", "0-2") == value
    assert write(lab, "/", "cpus", "0-2") == value


def test_a_child_stays_inside_of_its_parent(lab: Lab) -> None:
    cpuset(lab, "/a", mems="0-2", cpus="0-1")
    cpuset(lab, "/a/b", mems="1-2", cpus="1")
    assert write(lab, "/a/b", "mems", "2-3") == -errno.EACCES
    assert write(lab, "/a/b", "cpus", "0-2") == -errno.EACCES
    assert write(lab, "/a", "mems", "0-1") == -errno.EBUSY
    assert write(lab, "/a", "cpus", "0") == -errno.EBUSY
    assert write(lab, "/a/b", "mems", "1") == 0
    assert write(lab, "/a", "mems", "0-1") == 0


# ---- flags and attaching -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seed", "modern"),
    [
        ("0", "0", "0"),
        ("1", "1", "1"),
        ("2", "1", "1"),
        ("-1", "0", EINVAL),
        ("A", "0", EINVAL),
        ("", "0", EINVAL),
        ("1A", "1", EINVAL),
        ("0x10", "0", "1"),
        ("+1", "0", "1"),
        ("99999999999999999999", "1", ERANGE),
    ],
)
@BOTH
def test_cs_17_memory_migrate(
    make_lab: Labs, profile: Profile, text: str, seed: str, modern: str | int
) -> None:
    lab = make_lab(profile=profile)
    assert mkdir(lab, "/a") == 0
    value = write(lab, "/a", "memory_migrate", text)
    assert (value or cat(lab, "/a", "memory_migrate")) == (seed if profile is SEED else modern)


@BOTH
def test_cs_17_attaching_takes_cpus_and_mems(make_lab: Labs, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    assert mkdir(lab, "/a") == 0
    assert write(lab, "/a", "tasks", pid) == -errno.ENOSPC
    assert write(lab, "/a", "mems", "1") == 0
    assert write(lab, "/a", "tasks", pid) == -errno.ENOSPC
    assert write(lab, "/a", "cpus", "1") == 0
    assert write(lab, "/a", "tasks", pid) == 0
    assert cat(lab, "/a", "tasks") == f"{pid}"
    assert cat(lab, "/", "tasks") == ""


@pytest.mark.parametrize(
    ("text", "seed", "modern"),
    [
        ("4711", -errno.ESRCH, -errno.ESRCH),
        ("-3", -errno.ESRCH, EINVAL),
        ("x", -errno.EIO, EINVAL),
        ("", -errno.EIO, EINVAL),
        ("0", -errno.ESRCH, -errno.ESRCH),
        ("1x", 0, EINVAL),
        ("0x1", -errno.ESRCH, 0),
    ],
)
@BOTH
def test_cs_17_what_is_no_task(
    make_lab: Labs, profile: Profile, text: str, seed: int, modern: int
) -> None:
    lab = make_lab(profile=profile)
    assert lab.spawn() == 1
    cpuset(lab, "/a", mems="0")
    assert write(lab, "/a", "tasks", text) == (seed if profile is SEED else modern)


@pytest.mark.parametrize(("profile", "error"), [(SEED, errno.ENOSPC), (MODERN, errno.ESRCH)])
def test_cs_17_no_task_and_no_mems(make_lab: Labs, profile: Profile, error: int) -> None:
    lab = make_lab(profile=profile)
    assert mkdir(lab, "/a") == 0
    assert write(lab, "/a", "tasks", 4711) == -error


def test_pid_0_attaches_the_writer(lab: Lab) -> None:
    pid = lab.spawn()
    cpuset(lab, "/a", mems="0")
    assert write(lab, "/a", "tasks", 0, caller=pid) == 0
    assert cat(lab, "/a", "tasks") == f"{pid}"


@BOTH
def test_cs_17_a_child_does_not_inherit_memory_migrate(make_lab: Labs, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    cpuset(lab, "/a", mems="0", migrate=True)
    assert mkdir(lab, "/a/b") == 0
    assert cat(lab, "/a/b", "memory_migrate") == "0"


@pytest.mark.parametrize(("flag", "mask"), [("mem_exclusive", "mems"), ("cpu_exclusive", "cpus")])
@BOTH
def test_cs_19_exclusive(make_lab: Labs, profile: Profile, flag: str, mask: str) -> None:
    lab = make_lab(profile=profile)
    for path in ("/father", "/father/child", "/father/sibling"):
        assert mkdir(lab, path) == 0
    assert write(lab, "/father", mask, "0-2") == 0
    assert write(lab, "/father/child", mask, "0") == 0
    assert write(lab, "/father/sibling", mask, "1-2") == 0
    assert write(lab, "/father/child", flag, 1) == -errno.EACCES
    assert write(lab, "/father", flag, 1) == 0
    assert write(lab, "/father/child", flag, 1) == 0
    assert write(lab, "/father", flag, 0) == -errno.EBUSY
    assert write(lab, "/father/sibling", mask, "0-1") == -errno.EINVAL
    assert cat(lab, "/father/sibling", mask) == "1-2"
    assert write(lab, "/father/child", flag, 0) == 0
    assert write(lab, "/father/sibling", mask, "0-1") == 0
    assert write(lab, "/father/child", flag, 1) == -errno.EINVAL
    assert cat(lab, "/father/child", flag) == "0"
    assert write(lab, "/father", flag, 0) == 0


# ---- cpus --------------------------------------------------------------------------------------


def test_a_task_moves_to_the_first_cpu_that_it_may_run_on(lab: Lab) -> None:
    pid = lab.spawn(cpu=0)
    cpuset(lab, "/a", mems="0-3", cpus="2-3")
    assert write(lab, "/a", "tasks", pid) == 0
    assert lab.memory.tasks[pid].cpu == 2
    # Its client may not know yet: a fault of cpu 0 is one of cpu 2, one of cpu 3 is what it says.
    assert lab.where(pid, lab.mapped(pid, 1, cpu=0)) == [2]
    assert lab.where(pid, lab.mapped(pid, 1, cpu=3)) == [3]
    child = lab.fork(pid)
    assert lab.where(child, lab.mapped(child, 1, cpu=1)) == [2]


@pytest.mark.parametrize(("profile", "at_once"), [(SEED, 0), (MODERN, 3)])
def test_new_cpus_reach_a_task_at_once_or_when_it_is_attached_again(
    make_lab: Labs, profile: Profile, at_once: int
) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn(cpu=0)
    cpuset(lab, "/a", mems="0-3", cpus="0-1")
    assert write(lab, "/a", "tasks", pid) == 0
    assert write(lab, "/a", "cpus", "3") == 0
    assert lab.memory.tasks[pid].cpu == at_once
    assert write(lab, "/a", "tasks", pid) == 0
    assert lab.memory.tasks[pid].cpu == 3


# ---- the journal -------------------------------------------------------------------------------


@BOTH
def test_the_journal_has_cpusets_tasks_and_flags(make_lab: Labs, profile: Profile) -> None:
    lab = make_lab(profile=profile)
    pid = lab.spawn()
    cpuset(lab, "/a", mems="0-1", cpus="1", migrate=True)
    cpuset(lab, "/gone", mems="3")
    assert write(lab, "/a", "tasks", pid) == 0
    child = lab.fork(pid)
    assert rmdir(lab, "/gone") == 0
    told = replay(lab.topology, lab.records)
    assert list(differences(told, lab.memory)) == []
    assert sorted(told.cpusets) == ["/", "/a"]
    assert told.cpusets["/a"] == lab.memory.cpusets["/a"]
    assert told.tasks[child].cpuset == "/a"
    assert told.tasks[child].cpu == 1
