"""The commands about memory policies, as functions that know nothing of a command line.

Each gives an ``Answer``, or raises what ``console.explain`` makes a sentence of.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from numalab import constants as c
from numalab.commands import Place
from numalab.console import Answer, CommandFailed, Exit
from numalab.orders import IndefiniteError
from numalab.task import Task
from protocol.nodemask import format_nodes

MODES = {
    "default": c.MPOL_DEFAULT,
    "preferred": c.MPOL_PREFERRED,
    "bind": c.MPOL_BIND,
    "interleave": c.MPOL_INTERLEAVE,
    "local": c.MPOL_LOCAL,
    "preferred-many": c.MPOL_PREFERRED_MANY,
    "weighted-interleave": c.MPOL_WEIGHTED_INTERLEAVE,
}
FLAGS = {
    "static": c.MPOL_F_STATIC_NODES,
    "relative": c.MPOL_F_RELATIVE_NODES,
    "balancing": c.MPOL_F_NUMA_BALANCING,
}


def parse_mode(text: str) -> int:
    """``bind=static`` as a number of the system calls.  Raises CommandFailed."""
    name, equals, flags = text.partition("=")
    words = flags.split("|") if equals else []
    if name not in MODES or any(word not in FLAGS for word in words):
        raise CommandFailed(
            f"'{text}' is no mode: write {', '.join(MODES)}, and after a '=' {', '.join(FLAGS)}.",
            Exit.USAGE,
        )
    return MODES[name] | sum(FLAGS[word] for word in set(words))


def format_mode(mode: int) -> str:
    """What ``parse_mode`` reads."""
    named = next(name for name, number in MODES.items() if number == mode & 0xFFF)
    words = [word for word, bit in FLAGS.items() if mode & bit]
    return named + ("=" + "|".join(words) if words else "")


def mbind_flags(*, move: bool, move_all: bool, strict: bool) -> int:
    """MPOL_MF_*."""
    return (
        (c.MPOL_MF_MOVE if move else 0)
        | (c.MPOL_MF_MOVE_ALL if move_all else 0)
        | (c.MPOL_MF_STRICT if strict else 0)
    )


@contextmanager
def _about(pid: int) -> Iterator[None]:
    """Say what an errno of a call about this task means."""
    reasons = {
        errno.ESRCH: f"There is no task {pid} in this machine: 'numalab ps' lists those that there "
        "are.",
        errno.EINVAL: "The machine has no such mode with such nodes, or the address is not that of "
        "a page: default and local take no nodes, the others some that the task's cpuset has, and "
        "2006 knew neither flags nor local.",
        errno.EFAULT: f"Not all of these pages are mapped: 'numalab numa-maps {pid}' shows what "
        "is.",
        errno.EIO: "Some pages are not where the policy wants them: somebody holds them, or they "
        "find no room.",
        errno.EPERM: f"Task {pid} may not move pages that other tasks map: leave --all out.",
    }
    try:
        yield
    except IndefiniteError:
        raise
    except OSError as error:
        reason = reasons.get(error.errno or 0)
        raise CommandFailed(reason or f"The machine refuses that ({error.strerror}).") from None


async def set_mempolicy(place: Place, pid: int, mode: str, nodes: str) -> Answer:
    """set_mempolicy(2) of a task."""
    number = parse_mode(mode)
    async with place.connected() as machine:
        with _about(pid):
            await Task(machine, pid, 0, leased=False).set_mempolicy(number, nodes or ())
    return Answer("", {"pid": pid, "mode": mode, "nodes": nodes})


async def get_mempolicy(place: Place, pid: int, address: int | None) -> Answer:
    """get_mempolicy(2) of a task: its own policy, or that of an address."""
    flags = 0 if address is None else c.MPOL_F_ADDR
    async with place.connected() as machine:
        with _about(pid):
            mode, nodes = await Task(machine, pid, 0, leased=False).get_mempolicy(
                address or 0, flags
            )
    text = f"{format_mode(mode)} {format_nodes(nodes)}".rstrip()
    document = {"pid": pid, "mode": format_mode(mode), "nodes": list(nodes)}
    return Answer(f"{text}\n", document)


async def mbind(
    place: Place, pid: int, address: int, pages: int, mode: str, nodes: str, flags: int
) -> Answer:
    """mbind(2) of a task."""
    number = parse_mode(mode)
    async with place.connected() as machine:
        length = pages * machine.page_size
        with _about(pid):
            task = Task(machine, pid, 0, leased=False)
            await task.mbind(address, length, number, nodes or (), flags)
    return Answer("", {"pid": pid, "address": f"{address:x}", "pages": pages, "mode": mode})
