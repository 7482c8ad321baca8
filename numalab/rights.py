"""How a page is mapped, if it is: what the history knows of it at a moment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from numalab.registers import Words

PROT_READ, PROT_WRITE = 1, 2


@dataclass(frozen=True, slots=True, eq=False)
class Mapped:
    """Rights to a page that is mapped."""

    prot: int
    shared: bool
    words: Words


Rights = Mapped | None


def distinct(rights: list[Rights], prot: int = 0) -> list[Mapped]:
    """The mappings among ``rights`` that grant ``prot``, each page once."""
    found = {id(m.words): m for m in rights if m is not None and m.prot & prot == prot}
    return list(found.values())


def discarded(rights: list[Rights]) -> Iterator[Mapped]:
    """The same mappings, with new contents if they are private; each once with each protection."""
    fresh = {id(m.words): m.words if m.shared else m.words.fresh() for m in distinct(rights)}
    known = {(id(m.words), m.prot): m for m in rights if m is not None}
    for mapped in known.values():
        yield Mapped(mapped.prot, mapped.shared, fresh[id(mapped.words)])
