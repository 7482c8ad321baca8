"""The cpusets of a machine as plain files: dev/cpuset, and what /proc/PID says of them."""

from __future__ import annotations

from collections.abc import Mapping

from numalab.machine import Machine

CPUSET = "dev/cpuset"
_FILES = ("cpus", "mems", "cpu_exclusive", "mem_exclusive", "memory_migrate", "tasks")

#: The texts of the files of each cpuset, by path and name.
Texts = Mapping[str, Mapping[str, str]]


async def read_cpusets(machine: Machine, within: float) -> dict[str, dict[str, str]]:
    """Every cpuset and the texts of its files; one that is removed meanwhile is left out.

    Raises IndefiniteError if a question is not answered ``within`` so many seconds.
    """
    found: dict[str, dict[str, str]] = {}
    for path in await machine.cpusets.walk(within=within):
        try:
            found[path] = {
                name: await machine.cpusets.read(path, name, within=within) for name in _FILES
            }
        except FileNotFoundError:
            continue
    return found


def cpuset_files(cpusets: Texts) -> dict[str, str]:
    """The files below dev/cpuset, as a cpuset file system has them."""
    return {
        f"{CPUSET}{path.rstrip('/')}/{name}": text
        for path, texts in cpusets.items()
        for name, text in texts.items()
    }


def proc_files(cpusets: Texts) -> dict[str, str]:
    """proc/PID/cpuset, and the line of proc/PID/status that cpusets decide."""
    files: dict[str, str] = {}
    for path, texts in cpusets.items():
        for pid in texts["tasks"].split():
            files[f"proc/{pid}/cpuset"] = f"{path}\n"
            files[f"proc/{pid}/status"] = f"Pid:\t{pid}\nMems_allowed_list:\t{texts['mems']}"
    return files
