"""The cpuset file system of a lab, as a shell has it."""

from __future__ import annotations

from coordinator.replay import differences, replay
from protocol.syscalls import CpusetDirectory, CpusetRead, CpusetWrite, CpusetWritten, Description
from tests.lab import Lab


def mkdir(lab: Lab, path: str, *, caller: int = 0) -> int:
    return lab.call(CpusetDirectory(caller, path, 0))


def rmdir(lab: Lab, path: str, *, caller: int = 0) -> int:
    return lab.call(CpusetDirectory(caller, path, 1))


def write(lab: Lab, path: str, file: str, text: object, *, caller: int = 0) -> int:
    """echo TEXT > PATH/FILE; 0 or -errno."""
    return lab.ask(CpusetWrite(caller, path, file, f"{text}\n"), CpusetWritten).value


def cat(lab: Lab, path: str, file: str) -> str:
    """The text of a file without its last end of line."""
    answer = lab.ask(CpusetRead(path, file), Description)
    assert answer.value == 0, f"{path}/{file}: {answer.value}"
    return answer.text.removesuffix("\n")


def cpuset(lab: Lab, path: str, *, mems: str, cpus: str = "0-3", migrate: bool = False) -> str:
    """A new cpuset with all that it takes to attach a task."""
    assert mkdir(lab, path) == 0
    assert write(lab, path, "cpus", cpus) == 0
    assert write(lab, path, "mems", mems) == 0
    if migrate:
        assert write(lab, path, "memory_migrate", 1) == 0
    return path


def attached(lab: Lab, path: str, uid: int = 0) -> int:
    """A task in this cpuset."""
    pid = lab.spawn(uid=uid)
    assert write(lab, path, "tasks", pid) == 0
    return pid


def told(lab: Lab) -> list[str]:
    """In what the journal differs from memory."""
    return list(differences(replay(lab.topology, lab.records), lab.memory))
