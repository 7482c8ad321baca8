"""The system calls on memory nodes with the arguments that the kernel takes.

Nothing is converted and nothing raised: the value is the kernel's, -errno where it fails.  A mask
is a length in bits and the bytes at the pointer, None for NULL; bytes or elements that are missing
are memory that cannot be read or written (-EFAULT).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np

from numalab.orders import Ask
from protocol.messages import Done
from protocol.schema import COORDINATOR, Message
from protocol.syscalls import (
    GetMempolicy,
    Mbind,
    MigratePages,
    MovedPages,
    MovePages,
    PolicyTold,
    SetMempolicy,
)

if TYPE_CHECKING:
    from numalab.machine import Machine

#: The largest number that a message carries; a longer mask is as wrong as one of this length.
_LONG_MAX = (1 << 63) - 1
_ULONG_MAX = (1 << 64) - 1
#: A mode is an int, which the kernel then takes for an unsigned one.
_UINT_MAX = (1 << 32) - 1


class RawCalls:
    """The calls of one task: ``task.raw``."""

    def __init__(self, machine: Machine, pid: int) -> None:
        self._machine, self._pid = machine, pid

    async def migrate_pages(
        self, pid: int, maxnode: int, old_nodes: bytes | None, new_nodes: bytes | None
    ) -> int:
        """migrate_pages(2): pages not moved, or -errno (K 4.6)."""
        maxnode = _bits(maxnode)
        return await self._value(MigratePages(self._pid, pid, maxnode, old_nodes, new_nodes))

    async def set_mempolicy(self, mode: int, nodemask: bytes | None, maxnode: int) -> int:
        """set_mempolicy(2): 0 or -errno (K 4.33)."""
        mode &= _UINT_MAX
        return await self._value(SetMempolicy(self._pid, mode, nodemask, _bits(maxnode)))

    async def get_mempolicy(
        self, room: int | None, maxnode: int, address: int = 0, flags: int = 0
    ) -> tuple[int, int, bytes | None]:
        """get_mempolicy(2): value, mode, and the bytes written to the mask.

        room: bytes that can be written at the pointer of the mask; None: it is NULL (K 4.4, 4.35).
        """
        asked = GetMempolicy(self._pid, room, _bits(maxnode), address, flags)
        answer = await self._answer(asked)
        if isinstance(answer, PolicyTold):
            return answer.value, answer.mode, answer.nodes
        return _value(answer), 0, None

    async def mbind(
        self,
        address: int,
        length: int,
        mode: int,
        nodemask: bytes | None,
        maxnode: int,
        flags: int,
    ) -> int:
        """mbind(2): 0 or -errno (K 4.22)."""
        address, length, mode, maxnode, flags = (
            min(number & _ULONG_MAX, _LONG_MAX)
            for number in (address, length, mode, maxnode, flags)
        )
        return await self._value(Mbind(self._pid, address, length, mode, nodemask, maxnode, flags))

    async def move_pages(
        self,
        pid: int,
        count: int,
        pages: Iterable[int],
        nodes: Iterable[int] | None,
        status: Iterable[int],
        flags: int,
    ) -> tuple[int, list[int]]:
        """move_pages(2): value, and the status array as the call leaves it (K 4.12 - 4.16).

        nodes: None for NULL, a query.  status: what the array holds before the call.
        """
        asked = MovePages(
            self._pid,
            pid,
            count,
            flags,
            int(nodes is None),
            np.array(list(pages), np.uint64),
            np.array([] if nodes is None else list(nodes), np.int32),
            np.array(list(status), np.int32),
        )
        answer = await self._answer(asked)
        if isinstance(answer, MovedPages):
            return answer.value, [int(value) for value in answer.status.tolist()]
        return _value(answer), [int(value) for value in asked.status.tolist()]

    async def _value(self, message: Message) -> int:
        return _value(await self._answer(message))

    async def _answer(self, message: Message) -> Message:
        order = partial(Ask, peer=COORDINATOR, message=message, within=None)
        return cast(Message, await self._machine.carry_out(order))


def _bits(maxnode: int) -> int:
    """maxnode as an unsigned long, as far as a message carries it."""
    return min(maxnode & _ULONG_MAX, _LONG_MAX)


def _value(answer: Message) -> int:
    assert isinstance(answer, Done), f"{type(answer).__name__} answers another question"
    return answer.value
