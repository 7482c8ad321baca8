"""What one reads of the machine: numa_maps, tasks, hardware, progress, address spaces."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.calls import Steps
from coordinator.desk import ESRCH, Desk, handles
from coordinator.mem_map import Rows
from coordinator.members import absent
from coordinator.memory import Memory
from coordinator.mm import Pte, Task, Vma
from coordinator.numa_maps import fitting, numa_maps
from coordinator.vmstat import is_file, pages_by_kind
from protocol import syscalls as m
from protocol.messages import Done
from protocol.observe import Accrue, AskPace, Pace, ReadEmulated, ReadTrace, ReadVmstat, Vmstat
from protocol.schema import Message
from protocol.session import Question

EINVAL = 22
#: Pages that one answer tells of; 16 bytes for each of them.
DESCRIBED_MAX = 1 << 21


@handles(m.NumaMaps)
def on_numa_maps(desk: Desk, question: Question, asked: m.NumaMaps) -> Message | Steps[Message]:
    task = desk.memory.tasks.get(asked.pid)
    if task is None:
        return m.Description(-ESRCH, "")
    return _numa_maps(desk.memory, task, asked.start)


def _numa_maps(memory: Memory, task: Task, start: int) -> Steps[Message]:
    vmas, end = fitting(task.mm, start // memory.topology.page_size)
    text = yield from numa_maps(memory, task, vmas)
    return m.Description(end * memory.topology.page_size, text)


@handles(m.ListTasks)
def on_list_tasks(desk: Desk, question: Question, asked: m.ListTasks) -> Message:
    tasks = list(desk.memory.tasks.values())

    def column(values: list[int], dtype: str) -> Any:
        return np.array(values, dtype)

    present = [sum(int(vma.present().size) for vma in task.mm.vmas) for task in tasks]
    mapped = [sum(vma.pages for vma in task.mm.vmas) for task in tasks]
    return m.TaskList(
        tuple(task.comm for task in tasks),
        column([task.pid for task in tasks], "<i4"),
        column([task.ppid for task in tasks], "<i4"),
        column([task.uid for task in tasks], "<u4"),
        column([task.cpu for task in tasks], "<u4"),
        column(present, "<u8"),
        column(mapped, "<u8"),
        column([task.tgid for task in tasks], "<i4"),
    )


@handles(m.DescribeHardware)
def on_describe_hardware(desk: Desk, question: Question, asked: m.DescribeHardware) -> Message:
    """Without the nodes that nobody has leased: they are possible, and not there."""
    memory, topology = desk.memory, desk.memory.topology
    nodes = [node for node in topology.nodes if node.nid not in absent(memory)]
    nids = np.array([node.nid for node in nodes], np.intp)
    used = np.array([memory.mem_map[node.nid].used for node in nodes], np.uint64)
    frames = np.array([node.frames for node in nodes], np.uint64)
    up = np.array([desk.members.up(node.nid) for node in nodes], np.uint8)
    rows = np.searchsorted(memory.nids, nids)
    stat = memory.numastat
    return m.Hardware(
        topology.page_size,
        desk.epoch,
        int(desk.kernel.migration),
        tuple(node.cpus for node in nodes),
        nids.astype(np.int32),
        up,
        frames,
        frames - used,
        stat.numa_hit[nids],
        stat.numa_miss[nids],
        stat.numa_foreign[nids],
        stat.interleave_hit[nids],
        stat.local_node[nids],
        stat.other_node[nids],
        np.array(topology.distances, np.uint32)[np.ix_(rows, rows)].ravel(),
    )


@handles(ReadVmstat)
def on_read_vmstat(desk: Desk, question: Question, asked: ReadVmstat) -> Message:
    memory, profile = desk.memory, desk.memory.profile
    events = memory.counters.events()
    files = [mapping.id for mapping in memory.mappings.values() if is_file(mapping)]
    return Vmstat(
        profile.node_attributes,
        profile.node_states,
        int(profile.meminfo_splits_lru),
        int(profile.vmstat_counts_numa),
        tuple(events),
        np.array(list(events.values()), np.uint64),
        np.array(files, np.uint32),
        np.array(memory.nids, np.int32),
        **pages_by_kind(memory),
    )


@handles(ReadTrace)
def on_read_trace(desk: Desk, question: Question, asked: ReadTrace) -> Message:
    trace = desk.memory.counters.trace
    return m.Description(trace.next, trace.since(asked.first))


@handles(Accrue)
def on_accrue(desk: Desk, question: Question, asked: Accrue) -> Message:
    topology = desk.memory.topology
    known = np.isin(asked.nid, topology.nids).all() and np.isin(asked.cpu, topology.cpus).all()
    if not known or asked.waiter.size != asked.waited_ns.size:
        return Done(-EINVAL)
    desk.memory.emulated.accessed(desk.memory, asked)
    return Done(0)


@handles(ReadEmulated)
def on_read_emulated(desk: Desk, question: Question, asked: ReadEmulated) -> Message:
    return desk.memory.emulated.message(desk.memory)


@handles(AskPace)
def on_ask_pace(desk: Desk, question: Question, asked: AskPace) -> Message:
    topology, emulated = desk.memory.topology, desk.memory.emulated
    there = np.ix_(topology.nids, topology.nids)
    return Pace(
        emulated.pace,
        topology.nids,
        tuple(node.cpus for node in topology.nodes),
        tuple(emulated.distance.latency[there].ravel().tolist()),
        tuple(emulated.distance.bandwidth[there].ravel().tolist()),
    )


@handles(m.Progress)
def on_progress(desk: Desk, question: Question, asked: m.Progress) -> Message:
    task = desk.memory.tasks.get(asked.pid)
    mm = asked.pid if task is None else task.mm.pid
    lists = [pages for pages in desk.memory.page_lists if pages.pid == mm]
    listed = sum(pages.rows for pages in lists)
    settled = listed - sum(pages.unsettled() for pages in lists)
    return m.ProgressMade(listed, settled, desk.memory.longest_entry)


@handles(m.DescribeMm)
def on_describe_mm(desk: Desk, question: Question, asked: m.DescribeMm) -> Message:
    task = desk.memory.tasks.get(asked.pid)
    vmas = [] if task is None else task.mm.vmas
    slots = [vma.present() for vma in vmas]

    def joined(parts: list[Any], dtype: str) -> Any:
        return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)

    pairs = list(zip(vmas, slots, strict=True))
    page = joined([slot + vma.start for vma, slot in pairs], "<u8")
    rest = np.flatnonzero(page >= asked.start)
    told, more = rest[:DESCRIBED_MAX], rest[DESCRIBED_MAX:]
    goes_on = int(page[more[0]]) if more.size else 0
    return m.AddressSpace(
        -ESRCH if task is None else goes_on,
        tuple(vma.name for vma in vmas),
        np.array([vma.start for vma in vmas], "<u8"),
        np.array([vma.end for vma in vmas], "<u8"),
        np.array([vma.prot for vma in vmas], "<u4"),
        np.array([vma.flags for vma in vmas], "<u4"),
        np.array([0 if vma.file is None else vma.file.id for vma in vmas], "<u4"),
        np.array([vma.pgoff for vma in vmas], "<u8"),
        page[told],
        joined([vma.nid[slot] for vma, slot in pairs], "<i4")[told],
        joined([_written(vma, slot) for vma, slot in pairs], "<u4")[told],
    )


def _written(vma: Vma, slot: Rows) -> npt.NDArray[np.bool_]:
    """Whether a task may have stored to these pages: to those of a cache any who maps it."""
    bits = vma.bits[slot]
    written: npt.NDArray[np.bool_] = (bits & Pte.WRITTEN) != 0
    if vma.file is not None:
        written |= vma.file.dirty()[slot + vma.pgoff] & ((bits & Pte.ANON) == 0)
    return written
