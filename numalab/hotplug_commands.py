"""``numalab offline`` and ``numalab online``, as functions that know nothing of a command line."""

from __future__ import annotations

import errno

import trio

from numalab.commands import Place
from numalab.console import Answer, CommandFailed, Exit
from numalab.machine import Machine
from protocol.hotplug import OfflinePages, OnlinePages

#: Between two rounds, while pages cannot be moved.
ROUND_SECONDS = 0.2


async def offline(place: Place, nid: int, within: float) -> Answer:
    """Move everything off a node, round after round, until it is empty.

    Interrupted, or after ``within`` seconds, the node is online again, as in the kernel.
    """
    async with place.connected() as machine:
        left = -1
        try:
            with trio.move_on_after(within):
                while True:
                    left = await _round(machine, nid)
                    if not left:
                        break
                    await trio.sleep(ROUND_SECONDS)
        finally:
            if left:
                with trio.CancelScope(shield=True):
                    await machine.call(OnlinePages(nid))
    if left:
        raise CommandFailed(
            f"{left} frames of node {nid} could not be moved within {within:g} s, so it is online "
            "again: let go of what is pinned or locked, or give it longer with --within.",
            Exit.PARTLY,
        )
    return Answer(f"node {nid} is offline: it has no page any more\n", {"node": nid, "left": 0})


async def _round(machine: Machine, nid: int) -> int:
    left = await machine.call(OfflinePages(nid))
    if left == -errno.EINVAL:
        raise CommandFailed(f"There is no node {nid}: 'numalab hardware' lists them.")
    if left == -errno.EBUSY:
        raise CommandFailed(f"Node {nid} is the last one that is online: bring another one back.")
    if left < 0:
        raise CommandFailed(f"Node {nid} stays: {errno.errorcode[-left]}, migration is off.")
    return left


async def online(place: Place, nid: int) -> Answer:
    """Pages go to the node again."""
    async with place.connected() as machine:
        if await machine.call(OnlinePages(nid)):
            raise CommandFailed(f"There is no node {nid}: 'numalab hardware' lists them.")
    return Answer(f"node {nid} is online\n", {"node": nid})
