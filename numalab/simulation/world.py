"""A driver of Cores on virtual time: one seed, one heap of (time, sequence, what).

It carries effects out in the order given.  Frames are copied to bytes when they are sent, so what
arrives is what the buffer held at that moment.  Processes can die at any effect boundary and come
back.  The same seed and the same Cores give the same bytes: nothing here reads a clock, and every
choice is drawn from ``World.draw``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import Any, TypeVar

import xxhash

from numalab.faults import Rule
from numalab.simulation.happening import Arrival, Call, Make, Order, Packet, Process, Wake, What
from numalab.simulation.harm import Harm
from protocol.core import Command, Core, Deadline, Event, Received, Record, Report, Send
from protocol.notes import Note

#: A Core may be woken so often without any time going by; more is a loop.
WAKES_MAX = 1000

Watch = Callable[[str], None]
Listen = Callable[[Any], None]
#: Sees an arrival first; True: it has dealt with it.
Intercept = Callable[["Arrival"], bool]


_N = TypeVar("_N", bound=Note)


class Stuck(AssertionError):
    """Something that must happen within a bounded virtual time has not happened."""


class World:
    """The network, the processes and the time.

    key: the machine's, to read opcodes with.  every: the invariants of a Core are looked at after
    so many of its events, on the average; after its next one when any process dies, comes back,
    stands still or goes on; and by ``check``.
    """

    def __init__(
        self, seed: int, *, key: bytes, rules: Iterable[Rule] = (), every: int = 1
    ) -> None:
        self.draw = random.Random(seed)
        self.key = key
        self._every = every
        self._gaps = random.Random(f"looking at {seed}")
        self.harm = Harm(self, tuple(rules))
        self.now = 0.0
        self.events = 0
        self.processes: dict[str, Process] = {}
        self.packets: list[Packet] = []
        self.notes: list[tuple[float, str, Note]] = []
        #: When which process died, came back, stood still and went on.
        self.incidents: list[tuple[float, str, str]] = []
        #: Called after every event with the name of the Core that ran.
        self.watches: list[Watch] = []
        self.intercept: Intercept | None = None
        self._listeners: dict[type[Note], list[Listen]] = {}
        self._heap: list[tuple[float, int, What]] = []
        self._sequence = 0
        self._boots = 0
        self._latency: dict[tuple[str, str], float] = {}
        self._last: dict[tuple[str, str], float] = {}
        self._transcript = xxhash.xxh3_64()

    # ---- processes -------------------------------------------------------------------------

    def add(self, name: str, make: Make) -> Core:
        """Start a process: ``make(boot_id, journal)`` gives its Core, now and after a crash."""
        assert name not in self.processes, f"{name} is there already"
        process = Process(name, make, 0, None, [])
        self.processes[name] = process
        return self._start(process)

    def crash(self, name: str) -> None:
        """SIGKILL: the Core is gone; its journal and what its maker keeps stay."""
        process = self.processes[name]
        self.incidents.append((self.now, name, "crash"))
        process.core = process.missed = None
        self._look_soon()
        process.armed = process.effects_left = None

    def crash_after(self, name: str, effects: int) -> None:
        """Let it die at an effect boundary: when it has carried out so many more effects."""
        self.processes[name].effects_left = effects

    def restart(self, name: str, make: Make | None = None) -> Core:
        """Start a dead process again, with a new boot_id; ``make`` replaces its maker."""
        process = self.processes[name]
        assert process.core is None, f"{name} is alive"
        process.make = make or process.make
        process.missed = None
        self.incidents.append((self.now, name, "restart"))
        return self._start(process)

    def crash_for(self, name: str, seconds: float) -> None:
        """It dies now, and is started again so much later."""
        self.crash(name)
        self.call(seconds, lambda: self._come_back(name))

    def _come_back(self, name: str) -> None:
        if self.processes[name].core is None:
            self.restart(name)

    def pause(self, name: str) -> None:
        """SIGSTOP: what reaches it waits; nothing happens if it is dead."""
        process = self.processes[name]
        if process.core is not None and process.missed is None:
            process.missed = []
            self.incidents.append((self.now, name, "pause"))
            self._look_soon()

    def resume(self, name: str) -> None:
        """SIGCONT: now it sees all that has happened, in its order."""
        process = self.processes[name]
        if process.missed is not None:
            self.incidents.append((self.now, name, "resume"))
            self._look_soon()
        missed, process.missed = process.missed or [], None
        for what in missed:
            self._push(self.now, what)

    def alive(self) -> list[Core]:
        """The Cores that run, in the order in which they were added."""
        return [process.core for process in self.processes.values() if process.core is not None]

    def check(self) -> None:
        """Every invariant of every Core that runs.  Raises AssertionError."""
        for process in self.processes.values():
            if process.core is not None:
                process.core.validate()

    def _look_soon(self) -> None:
        """Something out of the common has happened: whoever runs next is looked at."""
        for process in self.processes.values():
            process.look_in = 1

    def _start(self, process: Process) -> Core:
        self._boots += 1
        process.boot = self._boots
        process.wakes = 0
        self._look_soon()
        process.core = core = process.make(process.boot, process.journal)
        assert core.name == process.name, f"{process.name} calls itself {core.name}"
        self._arm(process)
        return core

    # ---- what happens ----------------------------------------------------------------------

    def command(self, name: str, order: object, *, delay: float = 0.0) -> None:
        """Give an order to a Core, ``delay`` seconds from now."""
        self._push(self.now + delay, Order(name, order))

    def call(self, delay: float, function: Callable[[], None]) -> None:
        """Do something to the world, ``delay`` seconds from now."""
        self._push(self.now + delay, Call(function))

    def listen(self, kind: type[_N], function: Callable[[_N], None]) -> None:
        """Call it for every note of this kind, when that is reported."""
        self._listeners.setdefault(kind, []).append(function)

    def heal(self) -> None:
        """The faults end: nothing is lost, repeated, kept back or killed from now on."""
        self.harm.end()

    def step(self) -> bool:
        """Let the next thing happen; False if nothing will ever happen again."""
        if not self._heap:
            return False
        time, _, what = heappop(self._heap)
        self.now = max(self.now, time)
        if isinstance(what, Arrival):
            self._arrive(what)
        elif isinstance(what, Wake):
            self._wake(what)
        elif isinstance(what, Order):
            self._run(what.name, Command(what.order))
        else:
            what.function()
        return True

    def run_until(self, done: Callable[[], bool], *, within: float, what: str) -> None:
        """Step until ``done()``; Stuck if that takes more than ``within`` virtual seconds."""
        limit = self.now + within
        while not done():
            if not self._heap or self._heap[0][0] > limit:
                raise Stuck(f"{what} is not done {within:g} s after the network healed")
            self.step()

    def run_for(self, seconds: float) -> None:
        """Step through the next ``seconds``."""
        limit = self.now + seconds
        while self._heap and self._heap[0][0] <= limit:
            self.step()
        self.now = max(self.now, limit)

    def journal_digest(self) -> str:
        """One sum over every Record of every Core and every byte that arrived, in order."""
        digest = self._transcript.copy()
        for name, process in self.processes.items():
            digest.update(name.encode())
            for entry in process.journal:
                digest.update(len(entry).to_bytes(8, "little"))
                digest.update(entry)
        return digest.hexdigest()

    def _push(self, time: float, what: What) -> None:
        self._sequence += 1
        heappush(self._heap, (time, self._sequence, what))

    def _arrive(self, arrival: Arrival) -> None:
        packet = arrival.packet
        process = self.processes.get(packet.target)
        if process is None or process.core is None:
            packet.fate = "nobody there"
            return
        if self.intercept is not None and self.intercept(arrival):
            return
        if process.missed is not None:
            process.missed.append(arrival)
            return
        self.hand_over(arrival)

    def hand_over(self, arrival: Arrival, *, mute: bool = False) -> None:
        """Let the target have it; ``mute``: it does what it does, but nobody hears of it."""
        packet = arrival.packet
        packet.arrived.append(self.now)
        if packet.fate == "on its way":
            packet.fate = "arrived"
        for frame in arrival.frames:
            self._transcript.update(frame)
        self._run(packet.target, Received(arrival.frames), mute=mute)

    def _wake(self, wake: Wake) -> None:
        process = self.processes[wake.name]
        if process.boot != wake.boot or process.armed != wake.time or process.core is None:
            return
        if process.missed is not None:
            process.missed.append(wake)
            return
        process.armed = None
        deadline = process.core.next_deadline()
        if deadline is not None and deadline <= self.now:
            if process.woken != self.now:
                process.woken, process.wakes = self.now, 0
            process.wakes += 1
            assert process.wakes < WAKES_MAX, f"{wake.name} asks for the same deadline for ever"
            self._run(wake.name, Deadline())
        else:
            self._arm(process)

    def _run(self, name: str, event: Event, *, mute: bool = False) -> None:
        process = self.processes[name]
        core = process.core
        if core is None:
            return
        if process.missed is not None:
            assert isinstance(event, Command)
            process.missed.append(Order(name, event.order))
            return
        self.events += 1
        effects = core.handle(event, now=self.now)
        late, recorded = 0.0, False
        for effect in effects:
            if process.effects_left is not None:
                if process.effects_left == 0:
                    self.crash(name)
                    return
                process.effects_left -= 1
            if isinstance(effect, Report):
                self._report(name, effect.note)
            elif isinstance(effect, Send):
                if not mute:
                    self._send(name, effect.target, tuple(map(bytes, effect.frames)), late)
                    if process.core is not core:
                        return
            elif not recorded:
                delay = self.harm.write(name)
                if delay is None:
                    return
                late += delay
                # All that one event records is one transaction: it is there or it is not.
                process.journal += [each.entry for each in effects if isinstance(each, Record)]
                recorded = True
        process.look_in -= 1
        if process.look_in == 0:
            process.look_in = self._gaps.randrange(1, 2 * self._every)
            core.validate()
        self._arm(process)
        for watch in self.watches:
            watch(name)

    def _report(self, name: str, note: Note) -> None:
        self.notes.append((self.now, name, note))
        for listen in self._listeners.get(type(note), ()):
            listen(note)

    def _arm(self, process: Process) -> None:
        assert process.core is not None
        deadline = process.core.next_deadline()
        if deadline is None or (process.armed is not None and process.armed <= deadline):
            return
        process.armed = deadline
        self._push(max(deadline, self.now), Wake(process.name, process.boot, deadline))

    # ---- the network -----------------------------------------------------------------------

    def _send(self, source: str, target: str, frames: tuple[bytes, ...], late: float) -> None:
        packet = Packet(len(self.packets), self.now, source, target, frames)
        self.packets.append(packet)
        verdict = self.harm.verdict(source, target, frames)
        if verdict is None:
            packet.fate = "never left"
            return
        if verdict.damaged:
            frames = self._damage(frames)
            packet.fate = "damaged"
        if not verdict.copies:
            packet.fate = "lost"
        for extra in verdict.copies:
            self._deliver(packet, extra + late, verdict.in_order, frames)

    def _deliver(
        self, packet: Packet, extra: float, in_order: bool, frames: tuple[bytes, ...]
    ) -> None:
        link = (packet.source, packet.target)
        if link not in self._latency:
            self._latency[link] = self.draw.choice((1e-4, 3e-4, 1e-3, 5e-3))
        time = self.now + extra + self._latency[link] * self.draw.uniform(0.8, 1.5)
        if in_order:
            time = max(time, self._last.get(link, 0.0))
            self._last[link] = time
        self._push(time, Arrival(packet, frames))

    def _damage(self, frames: tuple[bytes, ...]) -> tuple[bytes, ...]:
        which = self.draw.randrange(len(frames))
        frame = bytearray(frames[which])
        if frame:
            frame[self.draw.randrange(len(frame))] ^= 1 << self.draw.randrange(8)
        return (*frames[:which], bytes(frame), *frames[which + 1 :])
