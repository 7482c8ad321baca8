"""What tests of files do with a lab: create, map, set the device, read the counts."""

from __future__ import annotations

from coordinator.inode import Device
from coordinator.mm import MAP_PRIVATE, MAP_SHARED
from coordinator.replay import differences, replay
from protocol.files import CreateFile, DescribeFile, SetDevice, Unlink
from protocol.notes import PagesNotMoved
from protocol.syscalls import Description, Mmap
from tests.calls import PREFILL
from tests.lab import PAGE, RW, WRITE, Lab

PATH = "/data/file"


def create(
    lab: Lab, kind: str = "shmem", pages: int = 8, path: str = PATH, seconds: float = 0.0
) -> int:
    return lab.call(CreateFile(path, pages, kind, seconds))


def unlink(lab: Lab, path: str = PATH) -> int:
    return lab.call(Unlink(path))


def map_file(
    lab: Lab,
    pid: int,
    pages: int = 8,
    *,
    shared: bool = True,
    offset: int = 0,
    path: str = PATH,
    prot: int = RW,
) -> int:
    """Map pages of a file from page ``offset`` on; the first page's number."""
    flags = MAP_SHARED if shared else MAP_PRIVATE
    address = lab.call(Mmap(pid, 0, pages * PAGE, prot, flags, path, offset * PAGE))
    assert address > 0, f"mmap: {address}"
    return address // PAGE


def touched(lab: Lab, pid: int, pages: int = 8, access: int = WRITE, cpu: int = 0) -> int:
    """Map the file shared and touch its pages on ``cpu``; the first page's number."""
    start = map_file(lab, pid, pages)
    assert not lab.fault(pid, start, pages, access=access, cpu=cpu).status.any()
    return start


def set_device(lab: Lab, device: int = 0, path: str = PATH, *, sync: bool = False) -> None:
    assert lab.call(SetDevice(path, int(Device(device)), int(sync))) == 0


def described(lab: Lab, path: str = PATH) -> dict[str, str]:
    answer = lab.ask(DescribeFile(path), Description)
    assert answer.value == 0, f"describe: {answer.value}"
    return {line.partition(" ")[0]: line.partition(" ")[2] for line in answer.text.splitlines()}


def count(lab: Lab, what: str, path: str = PATH) -> int:
    return int(described(lab, path)[what])


def assert_journal_tells_all(lab: Lab) -> None:
    lab.validate()
    assert list(differences(replay(lab.topology, lab.records), lab.memory)) == []


def status_of_move(lab: Lab, pid: int, page: int, node: int = 1) -> int:
    """Of move_pages(2); 6.1 does not write it where the move failed, and the note has it then."""
    moved = lab.move(pid, [page], [node])
    if moved.status[0] != PREFILL:
        return int(moved.status[0])
    assert moved.value == 1
    return lab.noted(PagesNotMoved)[-1].status
