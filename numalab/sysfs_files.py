"""The files of ``sysfs.py`` in a directory, each whole at any moment, and kept fresh."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import trio

from numalab.console import CommandFailed
from numalab.cpuset_tree import CPUSET, cpuset_files, proc_files, read_cpusets
from numalab.machine import Machine
from numalab.orders import IndefiniteError
from numalab.sysfs import CPU, NODE, PROC, Reading, TaskFiles, tree
from protocol.messages import CountZone, ZoneCount
from protocol.observe import CountLru, LruCount
from protocol.schema import node_name
from protocol.syscalls import DescribeHardware, Hardware

#: Says that the directory holds nothing but this, and is locked by who writes to it.
MARK = ".numalab-sysfs"
REFRESH_SECONDS = 1.0
#: How long the coordinator may take to describe the machine.
HARDWARE_SECONDS = 10.0
#: How long a node may take to count its frames, before its lines are left out.
NODE_SECONDS = 1.0

_OF_A_PLACE = re.compile(r"(?:node|cpu)\d+")


class Tree:
    """The files of one machine in ``directory``, which is made if it is not there.

    Nobody else writes to it before ``close``.  Raises CommandFailed if it cannot be written, or
    has files in it that are not of such a tree.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._written: dict[str, str] = {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if not (directory / MARK).exists() and any(directory.iterdir()):
                raise CommandFailed(
                    f"{directory} has files in it that are not of a machine: give a directory "
                    "that is empty or not there yet."
                )
            self._mark = os.open(directory / MARK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        except OSError as error:
            self._fail(error)
        try:
            fcntl.flock(self._mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise CommandFailed(
                f"Somebody else keeps the files in {directory} up to date: stop that, or give "
                "another directory."
            ) from None

    def close(self) -> None:
        """Another may write from now on; the files stay."""
        os.close(self._mark)

    def write(self, files: Mapping[str, str]) -> None:
        """Make these the files.  A reader finds the old text of a file or the new one."""
        try:
            if not self._written:
                self._remove_others(files)
            for name, text in files.items():
                if self._written.get(name) != text:
                    self._replace(self.directory / name, text)
                    self._written[name] = text
            for name in [name for name in self._written if name not in files]:
                self._remove(name)
                del self._written[name]
        except OSError as error:
            self._fail(error)

    def _replace(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_text(text)
        new.replace(path)

    def _remove(self, name: str) -> None:
        """A task or a cpuset is gone, and so are its files and their directory."""
        path = self.directory / name
        path.unlink()
        while not any((path := path.parent).iterdir()):
            path.rmdir()

    def _remove_others(self, files: Mapping[str, str]) -> None:
        """What is of a machine that was described here before, and is another."""
        for path in [self.directory / CPUSET, *(self.directory / PROC).glob("[0-9]*")]:
            for file in [found for found in path.rglob("*") if found.is_file()]:
                name = file.relative_to(self.directory).as_posix()
                if name not in files:
                    self._remove(name)
        for parent in (NODE, CPU):
            for path in (self.directory / parent).glob("*"):
                inside = f"{parent}/{path.name}/"
                if _OF_A_PLACE.fullmatch(path.name) and not any(
                    x.startswith(inside) for x in files
                ):
                    shutil.rmtree(path)

    def _fail(self, error: OSError) -> NoReturn:
        raise CommandFailed(
            f"The files of the machine cannot be written to {self.directory} ({error.strerror}): "
            "give another directory."
        ) from None


async def describe(machine: Machine) -> dict[str, str]:
    """Every file of the machine as it is now, by its path.

    Raises IndefiniteError if the coordinator does not answer.
    """
    hardware = await machine.expect(DescribeHardware(), Hardware, within=HARDWARE_SECONDS)
    vmstat = await machine.vmstat_by_node()
    reading = Reading(hardware, vmstat, trace=(await machine.trace())[0])

    async def count(nid: int) -> None:
        try:
            reading.zones[nid] = await machine.expect(
                CountZone(), ZoneCount, node_name(nid), within=NODE_SECONDS
            )
            if vmstat.meminfo_splits_lru:
                asked = CountLru(vmstat.file_objects)
                reading.lists[nid] = await machine.expect(
                    asked, LruCount, node_name(nid), within=NODE_SECONDS
                )
        except IndefiniteError:
            return

    tasks = await machine.tasks()
    async with trio.open_nursery() as nursery:
        for nid in hardware.nid[hardware.up != 0].tolist():
            nursery.start_soon(count, nid)
        for row, pid in enumerate(tasks.pid.tolist()):
            ids = (int(tasks.ppid[row]), int(tasks.uid[row]))
            nursery.start_soon(_read_task, machine, reading, pid, ids, tasks.names[row])
    cpusets = await read_cpusets(machine, HARDWARE_SECONDS)
    files = tree(reading)
    for name, text in proc_files(cpusets).items():
        # What cpusets add to a file begins with a line that the file has already.
        files[name] = files[name] + text.partition("\n")[2] if name in files else text
    return {**files, **cpuset_files(cpusets)}


async def _read_task(
    machine: Machine, reading: Reading, pid: int, ids: tuple[int, int], comm: str
) -> None:
    try:
        reading.tasks[pid] = TaskFiles(*ids, comm, await machine.numa_maps(pid))
    except ProcessLookupError:
        return


async def refresh(machine: Machine, files: Tree) -> None:
    """Write the files again and again."""
    while True:
        await trio.sleep(REFRESH_SECONDS)
        files.write(await describe(machine))
