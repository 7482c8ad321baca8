"""What a client can be told to do, each order with a ``ticket`` that its submitter chose.

An order is given to the client's Core by ``protocol.core.Command(order)``; its end is one
``Report(OperationEnded(ticket, result))``, where ``result`` is the value named below or an OSError
that carries the kernel's errno.
"""

from __future__ import annotations

import errno

import numpy as np
import numpy.typing as npt

from protocol.codec import WireError, check_message
from protocol.core import Buffer
from protocol.schema import ROWS, Message
from protocol.values import value

Pages = npt.NDArray[np.uint64]


class IndefiniteError(OSError):
    """Nobody knows whether it happened: the peer went away, or did not answer in time."""


@value
class Ask:
    """Ask ``peer`` one question; the result is the answer, a Message.

    A message that its peer would drop unanswered, or that asks nothing, is OSError(EINVAL).

    within: seconds, None for ever.  A question that is idempotent (protocol/schema.py) is asked
    again when its peer has restarted; any other ends as IndefiniteError(ENODEV) then.  No answer
    within the time is IndefiniteError(EAGAIN).
    """

    ticket: int
    peer: str
    message: Message
    within: float | None = None

    def __post_init__(self) -> None:
        row = ROWS.get(type(self.message))
        if row is None or row.answer is None:
            raise OSError(errno.EINVAL, f"{type(self.message).__name__} is no question")
        try:
            check_message(self.message)
        except WireError as error:
            raise OSError(errno.EINVAL, f"no peer takes this: {error}") from None


@value
class Load:
    """Read ``length`` bytes at ``address`` (bytes) of task ``pid``, by ``cpu``; gives bytes.

    Errors: EFAULT no mapping, EACCES protection, ENOMEM no frame, EIO the node does not answer.
    """

    ticket: int
    pid: int
    cpu: int
    address: int
    length: int


@value
class Store:
    """Write ``data`` at ``address``; gives None.

    Each page is written whole or not at all, in no particular order.  The errors are those of
    Load; an order over several pages that fails may have stored some of them.  IndefiniteError
    (EIO): a node went away with a page of it.  ``data`` must not change until the order has ended.
    """

    ticket: int
    pid: int
    cpu: int
    address: int
    data: Buffer


@value
class LoadMany:
    """Read ``size`` bytes at each of ``addresses``; gives the rows one after the other, as bytes.

    No row may cross a page (EINVAL).  The other errors are those of Load.
    """

    ticket: int
    pid: int
    cpu: int
    addresses: Pages
    size: int


@value
class StoreMany:
    """Write ``size`` bytes at each of ``addresses`` from the rows of ``data``; gives None.

    No row may cross a page (EINVAL); which of two rows for one place wins is not determined.
    The other errors are those of Store.
    """

    ticket: int
    pid: int
    cpu: int
    addresses: Pages
    size: int
    data: Buffer


@value
class Fill:
    """Fill whole pages (virtual page numbers) from ``data``, whatever their protection; gives None.

    For an image that is being filled in.  file: they are file pages, else anonymous ones.
    The errors are those of Store.
    """

    ticket: int
    pid: int
    cpu: int
    pages: Pages
    file: bool
    data: Buffer


@value
class Hold:
    """Play another user of the pages at ``addresses`` (bytes); gives None.

    Absolute: ``locked`` and ``pinned`` say what holds afterwards.  The zero page cannot be held
    and does not move (K 3.9): it counts as done.  The errors are those of Load.
    """

    ticket: int
    pid: int
    cpu: int
    addresses: Pages
    locked: bool
    pinned: bool


@value
class Forget:
    """Nobody waits for the order ``ticket`` any more; it reports nothing.

    What it has already asked for may still happen.
    """

    ticket: int


@value
class Isolate:
    """Play another isolate_lru_page() of the pages at ``addresses`` (bytes); gives None.

    Absolute.  EBUSY: somebody has taken one off the LRU.  The other errors are those of Load.
    """

    ticket: int
    pid: int
    cpu: int
    addresses: Pages
    isolated: bool


AccessOrder = Load | Store | LoadMany | StoreMany | Fill | Hold | Isolate
Order = Ask | AccessOrder | Forget
