"""``numalab offline`` and ``numalab online``, as functions that know nothing of a command line."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from numalab.commands import Place
from numalab.console import Answer, CommandFailed, Exit
from numalab.orders import IndefiniteError
from protocol.hotplug import OfflinePages, OnlinePages

#: Between two rounds, while pages cannot be moved.
ROUND_SECONDS = 0.2


async def offline(place: Place, nid: int, within: float) -> Answer:
    """Move everything off a node, round after round, until it is empty.

    Interrupted, or after ``within`` seconds, the node is online again, as in the kernel.
    """
    async with place.connected() as machine:
        # How many frames are left; some, as long as no round has ended.
        left: int | str = "some"
        try:
            with trio.move_on_after(within):
                while left:
                    with _about(nid):
                        left = await machine.call(OfflinePages(nid))
                    await trio.sleep(ROUND_SECONDS if left else 0)
        except CommandFailed:
            left = 0
            raise
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


@contextmanager
def _about(nid: int) -> Iterator[None]:
    """Say what an errno of a call about node ``nid`` means."""
    try:
        yield
    except IndefiniteError:
        raise
    except OSError as error:
        said = {
            errno.EINVAL: f"There is no node {nid}: 'numalab hardware' lists them.",
            errno.EBUSY: f"Node {nid} is the last one that is online: bring another one back.",
            errno.ENOSYS: f"Node {nid} stays: this machine was started with migration off.",
        }
        if error.errno not in said:
            raise
        raise CommandFailed(said[error.errno]) from None


async def online(place: Place, nid: int) -> Answer:
    """Pages go to the node again."""
    async with place.connected() as machine:
        with _about(nid):
            await machine.call(OnlinePages(nid))
    return Answer(f"node {nid} is online\n", {"node": nid})
