"""What a user's own Python file adds to the machine, and the one place where its errors are caught.

The file has a function ``register(machine)``; ``machine`` is an ``Extensions``.  What it registers
runs in the process that serves everybody, so a method that raises, or returns what no such method
returns, ends its own call with -EIO and nothing else; a note says which method, and where.
"""

from __future__ import annotations

import inspect
import operator
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np

from coordinator.calls import PARKED, Ask, Parked, Reply, Steps
from coordinator.mem_map import Rows
from coordinator.memory import Memory
from coordinator.mm import Mapping, Vma
from coordinator.pagelist import Nodes, PageList, Statuses32
from protocol.codec import check_message
from protocol.notes import ExtensionFailed
from protocol.schema import ROWS, node_name
from protocol.status import StatusClass, status_class
from protocol.topology import Topology

EIO = 5
MAX_ERRNO = 4095
RESULT_MAX = (1 << 31) - 1
#: What a migratepage method may say of a page.
_VERDICTS = (StatusClass.OK, StatusClass.AGAIN, StatusClass.PERMANENT)

Function = Callable[..., Any]


class Extensions:
    """The machine as a file that is loaded sees it: what it has, and what can be registered.

    Each name can be registered once.  ValueError or TypeError says what is wrong.
    """

    def __init__(self, topology: Topology, taken: frozenset[str] = frozenset()) -> None:
        self.topology = topology
        self.vm_operations: dict[str, Function] = {}
        self.address_spaces: dict[str, Function] = {}
        self.new_pages: dict[str, Function] = {}
        self._taken = taken

    @property
    def nids(self) -> tuple[int, ...]:
        """The nodes, ascending."""
        return tuple(self.topology.nids)

    def vm_ops(self, name: str, *, migrate: Function) -> None:
        """vm_ops->migrate of vmas that are mapped with this name (K 2.2).

        ``migrate(memory, vma, from_nodes, to_nodes, flags)`` gives 0 to go on, -errno, or a
        positive number (nothing moves, and the call gives 0).  It may be a generator of steps
        (coordinator/calls.py) that asks nodes and returns that number.
        """
        self._enter(self.vm_operations, "vm_ops", name, migrate, 5)

    def a_ops(self, name: str, *, migratepage: Function) -> None:
        """a_ops->migratepage of the pages of mappings with this name (K 1.47).

        ``migratepage(mapping, pages)`` gives a status for each of so many pages: 0 copy it, -EAGAIN
        try again in the next pass, another -errno: it stays.
        """
        self._enter(self.address_spaces, "a_ops", name, migratepage, 2)

    def new_page(self, name: str, function: Function) -> None:
        """A new_page_t that callers of migrate_pages(2) can name (K 0.1).

        ``function(pagelist, rows, private)`` gives the node on which to allocate for each of these
        rows, -1 for no page; ``private`` is the node that the pages would go to otherwise.
        """
        self._enter(self.new_pages, "new_page", name, function, 3)

    def _enter(
        self, table: dict[str, Function], what: str, name: str, function: Function, arguments: int
    ) -> None:
        if not isinstance(name, str) or not name:
            raise TypeError(f"the name of {what} is {name!r}: give a text that is not empty")
        if name in table or name in self._taken:
            raise ValueError(f"{what} '{name}' is there already: choose another name")
        if not callable(function):
            raise TypeError(f"{what} '{name}' is {function!r}: give a function")
        try:
            inspect.signature(function).bind(*range(arguments))
        except TypeError:
            raise TypeError(
                f"{what} '{name}' cannot be called with {arguments} arguments: let it take them"
            ) from None
        table[name] = function


@dataclass(eq=False)
class _Guarded:
    """A registered function; ``what`` names it to people."""

    what: str
    memory: Memory
    function: Function

    def failed(self, error: BaseException) -> None:
        """Tell what went wrong, and on which line of the user's file."""
        code = getattr(inspect.unwrap(self.function), "__code__", None)
        frames = traceback.extract_tb(error.__traceback__)
        if code is None:
            file, line = frames[-1].filename, frames[-1].lineno
        else:
            lines = [frame.lineno for frame in frames if frame.filename == code.co_filename]
            file, line = code.co_filename, lines[-1] if lines else code.co_firstlineno
        sentence = " ".join(f"{type(error).__name__}: {_text_of(error)}".split())
        self.memory.notes.append(ExtensionFailed(self.what, f"{file}, line {line}", sentence))


def _text_of(error: BaseException) -> str:
    """What it says of itself, which may be a user's function too."""
    try:
        return str(error)
    except BaseException as second:
        return f"<{type(second).__name__} in its __str__>"


@dataclass(slots=True)
class _Driving:
    """A hook that asks: its questions without an answer; its call was dropped while it waited."""

    outstanding: int = 0
    dropped: bool = False


class GuardedMigrate(_Guarded):
    """vm_ops->migrate."""

    def __call__(
        self, memory: Memory, vma: Vma, old: frozenset[int], new: frozenset[int], flags: int
    ) -> Steps[int]:
        driving = _Driving()
        try:
            result = self.function(memory, vma, old, new, flags)
            if isinstance(result, Generator):
                result = yield from _driven(result, memory, driving)
            number = operator.index(result)
            if not -MAX_ERRNO <= number <= RESULT_MAX:
                raise ValueError(f"it returned {number}, which is no result of vm_ops->migrate")
            return number
        # All that a user's code can raise, KeyboardInterrupt too, is its own failure.
        except BaseException as error:
            if driving.dropped:
                raise
            self.failed(error)
        # The answers that it does not wait for any more are for nobody else.
        while driving.outstanding:
            yield []
            driving.outstanding -= 1
        return -EIO


def _driven(steps: Generator[Any, Any, Any], memory: Memory, driving: _Driving) -> Steps[Any]:
    """Run a user's generator, checking each of its steps; counts the questions without answer."""
    reply: Reply | None = None
    try:
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as stop:
                if driving.outstanding:
                    raise RuntimeError("it returned before its questions were answered") from None
                return stop.value
            asks = [] if isinstance(step, Parked) else list(step)
            parks = isinstance(step, Parked)
            _check_step(asks, parks, memory, driving.outstanding)
            driving.outstanding += len(asks)
            try:
                reply = yield (PARKED if parks else asks)
            except GeneratorExit:
                driving.dropped = True
                raise
            driving.outstanding -= not parks
    finally:
        steps.close()


def _check_step(asks: list[Any], parks: bool, memory: Memory, outstanding: int) -> None:
    nodes = [node_name(nid) for nid in memory.nids]
    for ask in asks:
        if not isinstance(ask, Ask):
            raise TypeError(f"it yielded {ask!r}: yield lists of Ask, or PARKED")
        row = ROWS.get(type(ask.message))
        if ask.peer not in nodes or row is None or row.answerer != "node" or row.answer is None:
            raise ValueError(f"it asked {ask.peer!r} for {ask.message!r}, which no node answers")
        check_message(ask.message)
    if parks and outstanding:
        raise RuntimeError("it parks while a question of its is not answered")
    if not parks and not asks and not outstanding:
        raise RuntimeError("it waits for an answer, and has asked nothing")


class GuardedMigratePage(_Guarded):
    """a_ops->migratepage: pages of which it cannot be asked fail with -EIO."""

    def __call__(self, mapping: Mapping, pages: int) -> Statuses32:
        try:
            return self._checked(self.function(mapping, pages), pages)
        except BaseException as error:
            self.failed(error)
            return np.full(pages, -EIO, np.int32)

    def _checked(self, result: Any, pages: int) -> Statuses32:
        numbers = _whole_numbers(result, pages)
        status: Statuses32 = np.clip(numbers, -MAX_ERRNO, 0).astype(np.int32)
        if (status != numbers).any() or not np.isin(status_class(status), _VERDICTS).all():
            raise ValueError(f"it returned {result!r}: 0, -EAGAIN, or an errno that is for good")
        return status


@dataclass(eq=False)
class GuardedNewPage(_Guarded):
    """new_page_t, for one call of migrate_pages(2); ``wrong``: it failed, and gave no nodes."""

    wrong: bool = False

    def __call__(self, pagelist: PageList, rows: Rows, private: object) -> Nodes:
        try:
            result = self.function(pagelist, rows.copy(), private)
            nodes = _whole_numbers(result, rows.size)
            if not np.isin(nodes, [-1, *self.memory.nids]).all():
                raise ValueError(f"it returned {result!r}, in which are nodes that are not there")
            chosen: Nodes = nodes.astype(np.int32)
            return chosen
        except BaseException as error:
            self.failed(error)
            self.wrong = True
            return np.full(rows.size, -1, np.int32)


def _whole_numbers(result: Any, size: int) -> np.ndarray[Any, Any]:
    numbers = np.asarray(result)
    if numbers.shape != (size,) or numbers.dtype.kind not in "iu":
        raise TypeError(f"it returned {result!r}: return a whole number for each of {size} pages")
    return numbers
