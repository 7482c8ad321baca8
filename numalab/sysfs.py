"""The machine as plain files, in the formats of /sys and /proc, for the tools that read those.

The texts are pure functions of what the machine answers; ``sysfs_files.py`` puts them into a
directory.  What the machine does not count has no file and no line, but for the lines of
``meminfo`` that tools expect: there is no high memory and no slab, so those are 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from numalab.hardware import COUNTERS
from numalab.meminfo import Counted, meminfo, node_meminfo, node_vmstat, vmstat
from protocol.messages import ZoneCount
from protocol.nodemask import format_nodes
from protocol.observe import LruCount, Vmstat
from protocol.syscalls import Hardware

NODE = "sys/devices/system/node"
CPU = "sys/devices/system/cpu"
PROC = "proc"
TRACE = "sys/kernel/tracing/trace"

_CPUMAP_BITS = 32
_TRACE_HEAD = """\
# tracer: nop
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
"""


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """What the files of one task are made of."""

    ppid: int
    uid: int
    comm: str
    numa_maps: str


@dataclass(frozen=True)
class Reading:
    """All that the files are made of.

    zones, lists: of the nodes that answer.  tasks: by pid.  trace: its lines.
    """

    hardware: Hardware
    vmstat: Vmstat
    zones: dict[int, ZoneCount] = field(default_factory=dict)
    lists: dict[int, LruCount] = field(default_factory=dict)
    tasks: dict[int, TaskFiles] = field(default_factory=dict)
    trace: str = ""

    @cached_property
    def nids(self) -> list[int]:
        return [int(nid) for nid in self.hardware.nid]

    def of_node(self, nid: int) -> Counted:
        """What is counted of one node."""
        row = self.nids.index(nid)
        return Counted.of(self.hardware, self.vmstat, row, self.zones.get(nid), self.lists.get(nid))

    def of_all(self) -> Counted:
        """The sum of all nodes; what one of them does not tell is not in it."""
        return Counted.sum([self.of_node(nid) for nid in self.nids])


# ---- pure texts ----------------------------------------------------------------------------


def cpumap(cpus: Iterable[int], cpu_count: int) -> str:
    """A mask of at least ``cpu_count`` bits, as words of 32 bits, the highest first (K 6.8)."""
    mask = sum(1 << cpu for cpu in cpus)
    words = range((max(cpu_count, 1) - 1) // _CPUMAP_BITS, -1, -1)
    return ",".join(f"{mask >> _CPUMAP_BITS * word & 0xFFFFFFFF:08x}" for word in words)


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


def node_files(reading: Reading) -> dict[str, str]:
    """The files below sys/devices/system/node (K 6.4 - 6.9)."""
    hardware, nids = reading.hardware, reading.nids
    with_cpus = [nid for nid, cpus in zip(nids, hardware.cpus, strict=True) if cpus]
    states = {"has_cpu": with_cpus}
    files = {
        f"{NODE}/{name}": f"{format_nodes(states.get(name, nids))}\n"
        for name in reading.vmstat.states
    }
    for nid in nids:
        texts = _node_texts(reading, nid)
        files |= {f"{NODE}/node{nid}/{name}": texts[name] for name in reading.vmstat.attributes}
    return files


def _node_texts(reading: Reading, nid: int) -> dict[str, str]:
    hardware, row = reading.hardware, reading.nids.index(nid)
    cpu_count = max((cpu for cpus in hardware.cpus for cpu in cpus), default=0) + 1
    distances = hardware.distance.reshape(len(reading.nids), -1)[row].tolist()
    counted = reading.of_node(nid)
    numastat = "".join(f"{name} {int(getattr(hardware, name)[row])}\n" for name in COUNTERS)
    return {
        "cpulist": f"{format_nodes(hardware.cpus[row])}\n",
        "cpumap": f"{cpumap(hardware.cpus[row], cpu_count)}\n",
        "distance": f"{' '.join(map(str, distances))}\n",
        "meminfo": node_meminfo(nid, counted),
        "numastat": numastat,
        "vmstat": node_vmstat(counted),
    }


def task_files(pid: int, task: TaskFiles) -> dict[str, str]:
    """The files below proc/PID, as far as a task of the machine has any."""
    ids = "\t".join([str(task.uid)] * 4)
    return {
        f"{PROC}/{pid}/comm": f"{task.comm}\n",
        f"{PROC}/{pid}/cmdline": f"{task.comm}\0",
        f"{PROC}/{pid}/numa_maps": task.numa_maps,
        f"{PROC}/{pid}/status": (
            f"Name:\t{task.comm}\nTgid:\t{pid}\nPid:\t{pid}\nPPid:\t{task.ppid}\nUid:\t{ids}\n"
        ),
    }


def tree(reading: Reading) -> dict[str, str]:
    """Every file by its path."""
    rows = zip(reading.nids, reading.hardware.cpus, strict=True)
    package_of = {cpu: nid for nid, cpus in rows for cpu in cpus}
    counted = reading.of_all()
    events = dict(zip(reading.vmstat.names, reading.vmstat.counts.tolist(), strict=True))
    files = {
        **node_files(reading),
        **cpu_files(package_of),
        f"{PROC}/cpuinfo": cpuinfo(package_of),
        f"{PROC}/meminfo": meminfo(counted),
        f"{PROC}/vmstat": vmstat(counted, events),
        TRACE: _TRACE_HEAD + reading.trace,
    }
    for pid, task in sorted(reading.tasks.items()):
        files |= task_files(pid, task)
    return files
