"""A migration call while nothing else runs: its outcome is the oracle's, to the last page."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from numalab.checker import Finding, invalid
from numalab.simulation import oracle, oracle_cpuset, oracle_mbind, oracle_policy
from numalab.simulation.cluster import PAGE_SIZE, Cluster
from numalab.simulation.describing import describe
from numalab.simulation.oracle_machine import Machine, Policy, Undetermined
from protocol.messages import Done
from protocol.nodemask import format_nodes, parse_list
from protocol.notes import PassEnded
from protocol.syscalls import (
    CpusetDirectory,
    CpusetWrite,
    CpusetWritten,
    Mbind,
    MigratePages,
    MovedPages,
    MovePages,
    SetMempolicy,
)
from protocol.user_mask import nodes_of

Asked = MigratePages | MovePages | Mbind | SetMempolicy | CpusetDirectory | CpusetWrite
CALLS: dict[type[Asked], str] = {
    MigratePages: "migrate_pages",
    MovePages: "move_pages",
    Mbind: "mbind",
    SetMempolicy: "set_mempolicy",
    CpusetDirectory: "cpuset mkdir or rmdir",
    CpusetWrite: "cpuset write",
}


class QuietCall:
    """Made just before ``message`` is asked; ``differences`` when it has ended.

    determined: there is only one right outcome.  Whoever holds a page lock lets go of it in time.
    """

    def __init__(self, cluster: Cluster, message: Asked) -> None:
        self._cluster, self._message = cluster, message
        self._machine = describe(cluster)
        self._notes = len(cluster.world.notes)
        # When the lock is let go decides how many polite passes fail, but not how it ends.
        pages = self._machine.pages.values()
        self._same_passes = not any(
            page.locked or page.writeback or (page.file is not None and page.file.slow)
            for page in pages
        )
        for page in pages:
            page.unlocks = True
        self._value, self._status = 0, [0]
        self.determined = True
        try:
            self._value, self._status = expect(self._machine, message)
        except Undetermined:
            self.determined = False

    def tally(self) -> list[str]:
        """What there is to be counted: the call, compared or not, and what it met if it was."""
        name = CALLS[type(self._message)]
        if isinstance(self._message, CpusetWrite):
            name = f"{name} {self._message.file}"
        if not self.determined:
            return [f"{name} undetermined"]
        return [name, *sorted(self._machine.met)]

    def differences(self, result: object) -> list[Finding]:
        """One finding for the value or the status array, and one for each misplaced page."""
        if not self.determined:
            return []
        found: list[Finding] = []
        value, status = values_of(result)
        what = describe_call(self._message)
        if value != self._value:
            found.append(invalid(f"{what} gave {value}, where the kernel gives {self._value}."))
        elif value is not None and value >= 0 and status != self._status:
            found.append(invalid(f"{what} gave {status}, where the kernel gives {self._status}."))
        whole = self._same_passes and oracle.NO_MEMORY not in self._machine.met
        had, wanted = self._passes(), self._machine.passes
        if not self._cluster.plan.strict_order:
            # Those of one node pair and of another may have come in any order.
            had, wanted = sorted(had), sorted(wanted)
        if whole and self._value >= 0 and had != wanted:
            has = f"{had}, where the kernel has {wanted}"
            found.append(invalid(f"{what} had passes (retry, failed) of {has}."))
        now = describe(self._cluster)
        found += self._misplaced(what, now)
        if now.cpusets != self._machine.cpusets:
            text = f"{now.cpusets}, where the kernel has {self._machine.cpusets}"
            found.append(invalid(f"{what} left cpusets {text}."))
        return found

    def _misplaced(self, what: str, now: Machine) -> Iterator[Finding]:
        """Tasks and pages that are not where they should be, or have another policy."""
        for pid, process in self._machine.processes.items():
            mine = now.processes.get(pid)
            if mine is None:
                # Its lease has run out meanwhile.
                continue
            for name in ("cpuset", "node", "policy"):
                has, wanted = getattr(mine, name), getattr(process, name)
                if has != wanted:
                    text = f"{what} left task {pid} with the {name} {has}"
                    yield invalid(f"{text}, where the kernel has {wanted}.", pid)
            found, expected = places(now, pid), places(self._machine, pid)
            for page in sorted(expected):
                address = page * PAGE_SIZE
                is_mapped = found.get(page, (None, None))
                for is_, should, kind in zip(
                    is_mapped, expected[page], ("node", "policy"), strict=True
                ):
                    if is_ != should:
                        text = f"{what} left page {address:#x} of task {pid} with {kind} {is_}"
                        sentence = f"{text}, where the kernel has it with {kind} {should}."
                        yield invalid(sentence, pid, address)

    def _passes(self) -> list[tuple[int, int]]:
        notes = self._cluster.world.notes[self._notes :]
        ended = [note for _, _, note in notes if isinstance(note, PassEnded)]
        return [(note.retry, note.failed) for note in ended]


def places(machine: Machine, pid: int) -> dict[int, tuple[int | None, Policy | None]]:
    """The node of every mapped page, if it is present, and its policy."""
    found: dict[int, tuple[int | None, Policy | None]] = {}
    for area in machine.processes[pid].areas:
        for page in range(area.start, area.end):
            name = area.present.get(page)
            node = None if name is None else machine.pages[name].node
            found[page] = node, machine.policy_at(area, page)
    return found


def values_of(result: object) -> tuple[int | None, list[int]]:
    """Value and status array of a migration call; None if nobody knows."""
    match result:
        case Done(value=value) | CpusetWritten(value=value):
            return value, []
        case MovedPages(value=value, status=status):
            return value, status.tolist() if value >= 0 else []
        case _:
            return None, []


def expect(machine: Machine, message: Asked) -> tuple[int, list[int]]:
    """What the kernel would do with the call; changes the machine.  Raises Undetermined."""
    if isinstance(message, CpusetDirectory | CpusetWrite | SetMempolicy):
        return expect_settings(machine, message), []
    if isinstance(message, MigratePages):
        nodes = [frozenset(nodes_of(mask)) for mask in masks_of(message)]
        return oracle.sys_migrate_pages(machine, message.caller, message.pid, *nodes), []
    if isinstance(message, Mbind):
        assert message.nodes is not None
        start, pages_asked = message.address // PAGE_SIZE, message.length // PAGE_SIZE
        wish = message.mode, frozenset(nodes_of(message.nodes))
        call = message.pid, start, start + pages_asked, wish, message.flags
        return oracle_mbind.sys_mbind(machine, *call), []
    pages = (message.address // np.uint64(PAGE_SIZE)).tolist()
    nodes_of_pages = None if message.query else message.node.tolist()
    who = message.caller, message.pid
    return oracle.sys_move_pages(machine, *who, pages, nodes_of_pages, message.flags)


def expect_settings(machine: Machine, message: CpusetDirectory | CpusetWrite | SetMempolicy) -> int:
    """The same for the calls that say where memory may be."""
    if isinstance(message, SetMempolicy):
        wish = message.mode, frozenset(nodes_of(message.nodes or b""))
        return oracle_policy.sys_set_mempolicy(machine, message.pid, wish)
    if isinstance(message, CpusetDirectory):
        call = oracle_cpuset.sys_rmdir if message.remove else oracle_cpuset.sys_mkdir
        return call(machine, message.caller, message.path)
    written = message.path, message.file, frozenset(parse_list(message.text))
    return oracle_cpuset.sys_write(machine, message.caller, *written)


def masks_of(message: MigratePages) -> tuple[bytes, bytes]:
    """The masks from and to; the load passes no NULL."""
    assert message.old_nodes is not None and message.new_nodes is not None
    return message.old_nodes, message.new_nodes


def describe_call(message: Asked) -> str:
    """The call as a person writes it."""
    if isinstance(message, MigratePages):
        old, new = (format_nodes(nodes_of(mask)) for mask in masks_of(message))
        nodes = f"{old} to {new}"
        return f"migrate_pages of task {message.pid or message.caller}, {nodes},"
    if isinstance(message, CpusetDirectory):
        return f"{'rmdir' if message.remove else 'mkdir'} {message.path} by task {message.caller}"
    if isinstance(message, CpusetWrite):
        what = f"{message.text} to {message.path} {message.file}"
        return f"the write of {what} by task {message.caller}"
    if isinstance(message, SetMempolicy):
        nodes = format_nodes(nodes_of(message.nodes or b""))
        return f"set_mempolicy of task {message.pid}, mode {message.mode:#x}, {nodes},"
    if isinstance(message, Mbind):
        where = f"{message.length:#x} bytes at {message.address:#x}"
        to = f"mode {message.mode:#x}, {format_nodes(nodes_of(message.nodes or b''))}"
        return f"mbind by task {message.pid}, {where}, {to}, flags {message.flags},"
    pages = ", ".join(f"{address:#x}" for address in message.address.tolist())
    nodes = message.node.tolist()
    return f"move_pages of task {message.pid}, [{pages}] to {nodes}, flags {message.flags},"
