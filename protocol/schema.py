"""How messages are declared: field types, the decorator that enters a message into its table.

A message is a frozen dataclass.  Scalar fields travel in the msgpack body; array fields
(``U32`` ...) and page contents (``Data``) travel as zmq frames of their own, or in the first frame
if they are few bytes, in field order, little endian.  All arrays of one message that are annotated
with a *column* type (``U8`` ...) have the same length, a row for each page; ``Plain...`` arrays may
have any length.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

Node = Annotated[int, Meta(ge=0, le=254)]
Word = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Unsigned = Annotated[int, Meta(ge=0, le=2**63 - 1)]
#: Characters.
TEXT_MAX = 1 << 22
Text = Annotated[str, Meta(max_length=TEXT_MAX)]
Nodes = Annotated[tuple[Node, ...], Meta(max_length=255)]


class ArrayTag(NamedTuple):
    """How an array field travels: its numpy type, and whether it is a column of the page table."""

    dtype: np.dtype[Any]
    column: bool


U8 = Annotated[npt.NDArray[np.uint8], ArrayTag(np.dtype("|u1"), True)]
U16 = Annotated[npt.NDArray[np.uint16], ArrayTag(np.dtype("<u2"), True)]
U32 = Annotated[npt.NDArray[np.uint32], ArrayTag(np.dtype("<u4"), True)]
U64 = Annotated[npt.NDArray[np.uint64], ArrayTag(np.dtype("<u8"), True)]
I32 = Annotated[npt.NDArray[np.int32], ArrayTag(np.dtype("<i4"), True)]
PlainU32 = Annotated[npt.NDArray[np.uint32], ArrayTag(np.dtype("<u4"), False)]
PlainU64 = Annotated[npt.NDArray[np.uint64], ArrayTag(np.dtype("<u8"), False)]
PlainI32 = Annotated[npt.NDArray[np.int32], ArrayTag(np.dtype("<i4"), False)]
#: Page contents: one contiguous buffer, copied by nobody on the way.  A message has at most one,
#: and it is the last field.
Data = Annotated[bytes | bytearray | memoryview, "data"]


class Message:
    """Base of all messages; they are declared in ``messages.py`` and ``syscalls.py``."""

    __slots__ = ()


class Row(NamedTuple):
    """One line of the table."""

    opcode: int
    name: str
    cls: type[Message]
    asker: str
    answerer: str
    answer: str | None
    idempotent: bool
    scalars: tuple[tuple[str, Any], ...]
    arrays: tuple[tuple[str, ArrayTag], ...]
    data: str | None
    meaning: str
    #: The type that the scalar fields are checked against; None if there are none.
    checked: Any
    #: The place of each field among scalars, arrays and data in this order; None: as declared.
    order: tuple[int, ...] | None


MESSAGES: dict[int, Row] = {}
#: Entries of the coordinator's journal (coordinator/records.py): written like messages, never sent.
ENTRIES: dict[int, Row] = {}
RETIRED: frozenset[int] = frozenset()
ROWS: dict[type[Message], Row] = {}

_C = TypeVar("_C", bound=type[Message])


@typing.dataclass_transform(frozen_default=True, eq_default=False)
def message(
    opcode: int,
    route: str,
    *,
    answer: str | None = None,
    idempotent: bool = False,
) -> Callable[[_C], _C]:
    """Enter a message into the table.

    ``route`` is ``"asker>answerer"``, or ``"journal"`` for an entry of the journal.
    ``idempotent`` means that executing it twice is harmless and cheap, so its answer is not kept:
    a repeated question is executed again.
    """

    def enter(cls: _C) -> _C:
        table = ENTRIES if route == "journal" else MESSAGES
        assert opcode not in table and opcode not in RETIRED, f"opcode {opcode:#x} is taken"
        cls = typing.cast(_C, dataclass(slots=True, eq=False)(cls))
        asker, _, answerer = route.partition(">")
        hints = typing.get_type_hints(cls, include_extras=True)
        scalars: list[tuple[str, Any]] = []
        arrays: list[tuple[str, ArrayTag]] = []
        data: str | None = None
        declared = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        for name in declared:
            hint = hints[name]
            tag = getattr(hint, "__metadata__", (None,))[0]
            if isinstance(tag, ArrayTag):
                arrays.append((name, tag))
            elif tag == "data":
                data = name
            else:
                scalars.append((name, hint))
        meaning = " ".join((cls.__doc__ or "").split())
        row = Row(
            opcode,
            cls.__name__,
            cls,
            asker,
            answerer,
            answer,
            idempotent,
            tuple(scalars),
            tuple(arrays),
            data,
            meaning,
            _checked(cls.__name__, scalars) if scalars else None,
            _order(declared, [*dict(scalars), *dict(arrays), *([data] if data else [])]),
        )
        table[opcode] = row
        ROWS[cls] = row
        return cls

    return enter


def _order(declared: Iterable[str], travelling: list[str]) -> tuple[int, ...] | None:
    order = tuple(travelling.index(name) for name in declared)
    return None if order == tuple(range(len(order))) else order


def _checked(name: str, scalars: list[tuple[str, Any]]) -> type[msgspec.Struct]:
    """A class and not a tuple of types, so that msgspec looks at the types only once."""
    return msgspec.defstruct(name, scalars, array_like=True, forbid_unknown_fields=True)


def node_name(nid: int) -> str:
    """The session name of node ``nid``."""
    return f"node{nid}"


@cache
def snake_case(name: str) -> str:
    """``migrate_pages`` for ``MigratePages``: the kernel's spelling of a message's name."""
    return re.sub("(?<!^)([A-Z])", r"_\1", name).lower()


COORDINATOR = "coordinator"
