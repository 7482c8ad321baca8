"""The machine as plain files, in the formats of /sys and /proc, for the tools that read those.

The texts are pure functions of what the machine answers; ``Tree`` puts them into a directory, each
file whole at any moment.  What the machine does not count has no file and no line, but for the
lines of ``meminfo`` that tools expect: there is no high memory, no slab and no writeback, so 0.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import trio

from numalab.console import CommandFailed
from numalab.cpuset_tree import CPUSET, cpuset_files, proc_files, read_cpusets
from numalab.hardware import COUNTERS
from numalab.machine import Machine
from numalab.orders import IndefiniteError
from protocol.messages import CountZone, ZoneCount
from protocol.nodemask import format_nodes
from protocol.schema import node_name
from protocol.syscalls import DescribeHardware, Hardware

NODE = "sys/devices/system/node"
CPU = "sys/devices/system/cpu"
#: Says that the directory holds nothing but this, and is locked by who writes to it.
MARK = ".numalab-sysfs"
REFRESH_SECONDS = 1.0
#: How long the coordinator may take to describe the machine.
HARDWARE_SECONDS = 10.0
#: How long a node may take to count its frames, before its lines are left out.
NODE_SECONDS = 1.0

_KIB = 1 << 10
_CPUMAP_BITS = 32
#: The counters of /proc/vmstat have other names than those of numastat (K 6.10).
_VMSTAT_NAMES = (
    "numa_hit",
    "numa_miss",
    "numa_foreign",
    "numa_interleave",
    "numa_local",
    "numa_other",
)
_OF_A_PLACE = re.compile(r"(?:node|cpu)\d+")


# ---- pure texts ----------------------------------------------------------------------------


def cpumap(cpus: Iterable[int], cpu_count: int) -> str:
    """A mask of at least ``cpu_count`` bits, as words of 32 bits, the highest first (K 6.8)."""
    mask = sum(1 << cpu for cpu in cpus)
    words = range((max(cpu_count, 1) - 1) // _CPUMAP_BITS, -1, -1)
    return ",".join(f"{mask >> _CPUMAP_BITS * word & 0xFFFFFFFF:08x}" for word in words)


def meminfo(pages: Mapping[str, int], page_size: int) -> str:
    """Lines ``Key:  value kB`` of what ``memory`` gives."""
    return "".join(
        f"{name + ':':<13} {count * page_size // _KIB:8} kB\n" for name, count in pages.items()
    )


def node_meminfo(nid: int, pages: Mapping[str, int], page_size: int) -> str:
    """nodeN/meminfo of the seed, which starts with an empty line (K 6.5)."""
    lines = meminfo(pages, page_size).splitlines(keepends=True)
    return "\n" + "".join(f"Node {nid} {line}" for line in lines)


def memory(frames: int, free: int, zone: ZoneCount | None) -> dict[str, int]:
    """The keys of nodeN/meminfo at the seed, in pages (K 6.5).

    Mapped counts anonymous pages too, as it did then.  zone: None if the node does not answer;
    what only the node knows is then not there.
    """
    pages = {"MemTotal": frames, "MemFree": free, "MemUsed": frames - free}
    if zone is not None:
        pages |= {"Active": zone.active, "Inactive": zone.inactive}
    pages |= {"HighTotal": 0, "HighFree": 0, "LowTotal": frames, "LowFree": free}
    pages |= {"Dirty": 0, "Writeback": 0}
    if zone is not None:
        pages |= {"Mapped": _mapped(zone)}
    return pages | {"Slab": 0}


def _mapped(zone: ZoneCount) -> int:
    """A mapped page is on the LRU, on its way there, or was taken off it."""
    return zone.active + zone.inactive + zone.pending + zone.isolated


def vmstat(free: int, zone: ZoneCount | None, counters: Sequence[int]) -> str:
    """Those lines of vmstat that the machine counts, in pages (K 6.10).

    counters: in the order of ``COUNTERS``.
    """
    lines = {"nr_free_pages": free}
    if zone is not None:
        lines |= {
            "nr_inactive": zone.inactive,
            "nr_active": zone.active,
            "nr_mapped": _mapped(zone),
        }
    lines |= zip(_VMSTAT_NAMES, counters, strict=True)
    return "".join(f"{name} {count}\n" for name, count in lines.items())


def cpuinfo(package_of: Mapping[int, int]) -> str:
    """/proc/cpuinfo as far as a topology goes; package_of: the node of each cpu."""
    cpus_of = _grouped(package_of)
    return "".join(
        f"processor\t: {cpu}\n"
        "model name\t: numalab\n"
        f"physical id\t: {nid}\n"
        f"siblings\t: {len(cpus_of[nid])}\n"
        f"core id\t\t: {cpus_of[nid].index(cpu)}\n"
        f"cpu cores\t: {len(cpus_of[nid])}\n\n"
        for cpu, nid in sorted(package_of.items())
    )


def _grouped(package_of: Mapping[int, int]) -> dict[int, list[int]]:
    cpus: dict[int, list[int]] = {}
    for cpu, nid in sorted(package_of.items()):
        cpus.setdefault(nid, []).append(cpu)
    return cpus


def cpu_files(package_of: Mapping[int, int]) -> dict[str, str]:
    """The files below sys/devices/system/cpu: a package for each node, a core for each cpu."""
    everyone = f"{format_nodes(list(package_of))}\n"
    files = {f"{CPU}/{name}": everyone for name in ("online", "possible", "present")}
    count = max(package_of, default=0) + 1
    cpus_of = _grouped(package_of)
    for cpu, nid in package_of.items():
        package = cpus_of[nid]
        topology = {"physical_package_id": str(nid), "core_id": str(package.index(cpu))}
        for names, group in (
            (("core_cpus", "thread_siblings"), [cpu]),
            (("package_cpus", "core_siblings"), package),
        ):
            for name in names:
                topology[name] = cpumap(group, count)
                topology[f"{name}_list"] = format_nodes(group)
        files |= {f"{CPU}/cpu{cpu}/topology/{name}": f"{text}\n" for name, text in topology.items()}
    return files


def node_files(hardware: Hardware, zones: Mapping[int, ZoneCount]) -> dict[str, str]:
    """The files below sys/devices/system/node (K 6.4-6.9)."""
    nids = hardware.nid.tolist()
    with_cpus = [nid for nid, cpus in zip(nids, hardware.cpus, strict=True) if cpus]
    lists = {"online": nids, "possible": nids, "has_cpu": with_cpus}
    lists |= {"has_memory": nids, "has_normal_memory": nids}
    files = {f"{NODE}/{name}": f"{format_nodes(group)}\n" for name, group in lists.items()}
    cpu_count = max((cpu for cpus in hardware.cpus for cpu in cpus), default=0) + 1
    distances = hardware.distance.reshape(len(nids), len(nids)).tolist()
    for row, nid in enumerate(nids):
        frames, free = int(hardware.frames[row]), int(hardware.free[row])
        counters = [int(getattr(hardware, name)[row]) for name in COUNTERS]
        zone = zones.get(nid)
        texts = {
            "cpulist": f"{format_nodes(hardware.cpus[row])}\n",
            "cpumap": f"{cpumap(hardware.cpus[row], cpu_count)}\n",
            "distance": f"{' '.join(map(str, distances[row]))}\n",
            "meminfo": node_meminfo(nid, memory(frames, free, zone), hardware.page_size),
            "numastat": "".join(
                f"{name} {count}\n" for name, count in zip(COUNTERS, counters, strict=True)
            ),
            "vmstat": vmstat(free, zone, counters),
        }
        files |= {f"{NODE}/node{nid}/{name}": text for name, text in texts.items()}
    return files


def tree(hardware: Hardware, zones: Mapping[int, ZoneCount]) -> dict[str, str]:
    """Every file by its path.  zones: of the nodes that answer."""
    nids = hardware.nid.tolist()
    rows = zip(nids, hardware.cpus, strict=True)
    package_of = {cpu: nid for nid, cpus in rows for cpu in cpus}
    frames, free = int(hardware.frames.sum()), int(hardware.free.sum())
    total = _sum(list(zones.values())) if len(zones) == len(nids) else None
    pages = memory(frames, free, total)
    # Only a node says this of itself.
    del pages["MemUsed"]
    counters = [int(getattr(hardware, name).sum()) for name in COUNTERS]
    return {
        **node_files(hardware, zones),
        **cpu_files(package_of),
        "proc/cpuinfo": cpuinfo(package_of),
        "proc/meminfo": meminfo(pages, hardware.page_size),
        "proc/vmstat": vmstat(free, total, counters),
    }


def _sum(zones: Sequence[ZoneCount]) -> ZoneCount:
    names = ("frames", "free", "active", "inactive", "pending", "isolated", "locked")
    return ZoneCount(*(sum(getattr(zone, name) for zone in zones) for name in names))


# ---- files ---------------------------------------------------------------------------------


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
        for path in [self.directory / CPUSET, *(self.directory / "proc").glob("[0-9]*")]:
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
    zones: dict[int, ZoneCount] = {}

    async def count(nid: int) -> None:
        try:
            zones[nid] = await machine.expect(
                CountZone(), ZoneCount, node_name(nid), within=NODE_SECONDS
            )
        except IndefiniteError:
            return

    async with trio.open_nursery() as nursery:
        for nid in hardware.nid[hardware.up != 0].tolist():
            nursery.start_soon(count, nid)
    cpusets = await read_cpusets(machine)
    return {**tree(hardware, zones), **cpuset_files(cpusets), **proc_files(cpusets)}


async def refresh(machine: Machine, files: Tree) -> None:
    """Write the files again and again."""
    while True:
        await trio.sleep(REFRESH_SECONDS)
        files.write(await describe(machine))
