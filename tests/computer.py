"""A lab with a program: one more client, which loads and stores words of its tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from numalab.client import Client, LoadMany, Store
from numalab.orders import Order
from numalab.translations import FAULT_AROUND
from protocol.core import Command
from protocol.notes import OperationEnded
from protocol.syscalls import Fault, Translations
from tests.lab import KEY, PAGE, READ, Lab

PROGRAM = "program"
WORD = 8


class Computer(Lab):
    """What a program loads and stores are the first words of pages, in numbers.

    What the lab itself asks is asked by somebody else: the program does not learn of it.
    """

    def __init__(self, fault_around: int = FAULT_AROUND, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.program = Client(
            PROGRAM, boot_id=1, key=KEY, page_size=PAGE, fault_around=fault_around
        )
        self.cores[PROGRAM] = self.program
        self._tickets = 0

    def give(self, make: Callable[[int], Order]) -> int:
        """Give the program an order, whose ticket this returns."""
        self._tickets += 1
        self._carry_out(self.program.handle(Command(make(self._tickets)), now=self.now))
        return self._tickets

    def start_load(self, pid: int, *pages: int) -> int:
        addresses = np.array(pages, np.uint64) * np.uint64(PAGE)
        return self.give(partial(LoadMany, pid=pid, cpu=0, addresses=addresses, size=WORD))

    def start_store(self, pid: int, page: int, value: int) -> int:
        data = value.to_bytes(WORD, "little")
        return self.give(partial(Store, pid=pid, cpu=0, address=page * PAGE, data=data))

    def result(self, ticket: int) -> object:
        """The result of an order that has ended."""
        self.run()
        [ended] = [note for note in self.noted(OperationEnded) if note.ticket == ticket]
        return ended.result

    def waits(self, ticket: int) -> bool:
        """The order has not ended."""
        self.run()
        return all(note.ticket != ticket for note in self.noted(OperationEnded))

    def words(self, ticket: int) -> list[int]:
        """What was loaded."""
        found = self.result(ticket)
        assert isinstance(found, bytes), found
        words: list[int] = np.frombuffer(found, "<u8").tolist()
        return words

    def failure(self, ticket: int) -> int | None:
        """The errno of an order that has failed."""
        found = self.result(ticket)
        assert isinstance(found, OSError), found
        return found.errno

    def load_word(self, pid: int, page: int) -> int:
        [word] = self.words(self.start_load(pid, page))
        return word

    def store_word(self, pid: int, page: int, value: int) -> None:
        assert self.result(self.start_store(pid, page, value)) is None

    def written(self, pages: int, *, shared: bool = False) -> tuple[int, int]:
        """A task, and memory of it whose page n holds 50 + n: the pid, the first page's number."""
        pid = self.spawn()
        start = self.mapped(pid, pages, shared=shared)
        for page in range(pages):
            self.write(pid, start + page, 50 + page)
        return pid, start

    def count_anew(self) -> None:
        """``asked`` counts what is asked from now on."""
        self.delivered.clear()

    def around(
        self, pid: int, wanted: Sequence[int], wished: Sequence[int], access: int = READ
    ) -> Translations:
        """What a fault tells of pages that are wanted and wished for, in this order."""
        page = np.array([*wanted, *wished], np.uint64)
        return self.ask(Fault(pid, 0, access, page, len(wished)), Translations)
