"""The quick way of a small access: within one page, whose translation is cached.

Most accesses are such, and all goes well with most of them: one question, one answer.  Only when
something else comes back is an ``Access`` made, which then has got that answer.  Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from numalab.access import Translation
from numalab.orders import Load, Store
from protocol.messages import LoadBytes, LoadedBytes, Statuses, StoreBytes
from protocol.schema import Message

CPU_MAX = (1 << 31) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Direct:
    """An order that is asked of the node that the translation names; ``started``: seconds."""

    order: Load | Store
    known: Translation
    message: LoadBytes | StoreBytes
    started: float


def place_of(order: Load | Store, page_size: int) -> tuple[int, int] | None:
    """(page, offset in it) of an order that could go the quick way; of the page alone it depends.

    What may be wrong with an order is for ``access_of`` to say.
    """
    size = order.length if isinstance(order, Load) else memoryview(order.data).nbytes
    page, offset = divmod(order.address, page_size)
    if page < 0 or not 0 < size <= page_size - offset or not 0 <= order.cpu <= CPU_MAX:
        return None
    return page, offset


def question_of(order: Load | Store, known: Translation, offset: int) -> LoadBytes | StoreBytes:
    """What the node is asked."""
    where = np.array((known.pfn, known.generation, offset), np.uint32)
    pfn, generation, start = where[:1], where[1:2], where[2:]
    if isinstance(order, Load):
        return LoadBytes(order.length, pfn, generation, start)
    data = memoryview(order.data).cast("B")
    return StoreBytes(data.nbytes, pfn, generation, start, data)


def served(direct: Direct, answer: Message | None) -> bool:
    """Whether all went well."""
    if isinstance(direct.message, LoadBytes):
        if not isinstance(answer, LoadedBytes) or len(answer.data) != direct.message.size:
            return False
    elif not isinstance(answer, Statuses):
        return False
    return answer.status.size == 1 and answer.status.item() == 0
