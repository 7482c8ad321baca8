"""Several guests at work on one list of scenarios."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue

from numalab.conformance.compare import Answer
from numalab.conformance.guest import Guest, initramfs, started
from numalab.conformance.scenario import Scenario


class Guests:
    """Booted guests; ``run`` takes one that is free."""

    def __init__(self, guests: list[Guest]) -> None:
        self.version = guests[0].version
        self._count = len(guests)
        self._free: SimpleQueue[Guest] = SimpleQueue()
        for guest in guests:
            self._free.put(guest)

    def run(self, scenario: Scenario) -> list[Answer]:
        guest = self._free.get()
        try:
            answers: list[Answer] = guest.run(scenario.plain())["answers"]
        finally:
            self._free.put(guest)
        return answers

    def run_all(
        self, scenarios: list[Scenario], done: Callable[[], None]
    ) -> Iterator[list[Answer]]:
        """The answers in the order of the scenarios; ``done`` is called after each."""

        def run(scenario: Scenario) -> list[Answer]:
            answers = self.run(scenario)
            done()
            return answers

        with ThreadPoolExecutor(self._count) as pool:
            yield from pool.map(run, scenarios)


@contextmanager
def guests(count: int) -> Iterator[Guests]:
    """So many guests.  Raises ConfigurationError: what is missing."""
    initramfs()
    with ExitStack() as stack:
        machines = [stack.enter_context(started()) for _ in range(count)]
        for machine in machines:
            machine.wait()
        yield Guests(machines)
