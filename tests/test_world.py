"""The simulated world, with Cores that are only a few lines long."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from numalab.faults import Crash, Fault, Judge, Letter, Rule, swarm
from numalab.simulation.world import Stuck, World
from protocol.codec import Envelope, Kind, WireError, decode, encode
from protocol.core import Command, Deadline, Effect, Event, Received, Record, Report, Send
from protocol.messages import Hello, LandPages
from protocol.notes import Note
from protocol.schema import ROWS
from protocol.values import value

KEY = b"0123456789abcdef"
OPCODE = ROWS[LandPages].opcode


@value
class Heard(Note):
    """What a Teller says when it got a message."""

    xid: int


#: So long that it is a frame of its own.
OLD = b"old" * 100


class Teller:
    """Told a number, it says it to its peer ``at`` a time; what it hears it records and reports."""

    def __init__(self, name: str, peer: str = "") -> None:
        self.name, self.peer = name, peer
        self.at: float | None = None
        self.page = bytearray(OLD)

    def handle(self, event: Event, *, now: float) -> Sequence[Effect]:
        match event:
            case Command(order):
                assert isinstance(order, int)
                names = self.name, self.peer
                envelope = Envelope(KEY, Kind.QUESTION, OPCODE, order, 0, *names, 1, 1, 1)
                nothing = np.zeros(0, np.uint32)
                message = LandPages(
                    0, nothing, nothing, nothing.astype(np.uint8), memoryview(self.page)
                )
                return [Send(self.peer, encode(envelope, message))]
            case Received(frames):
                try:
                    envelope, _ = decode(frames, KEY)
                except WireError:
                    return []
                return [Record(bytes(frames[-1])), Report(Heard(envelope.xid))]
            case Deadline():
                self.at = None
                return [Record(b"rang")]

    def next_deadline(self) -> float | None:
        return self.at

    def validate(self) -> None:
        assert self.at is None or self.at >= 0


def a_world(*rules: Rule, seed: int = 7) -> World:
    world = World(seed, key=KEY, rules=rules)
    world.add("a", lambda boot, journal: Teller("a", "b"))
    world.add("b", lambda boot, journal: Teller("b", "a"))
    return world


def heard(world: World) -> list[int]:
    return [note.xid for _, _, note in world.notes if isinstance(note, Heard)]


def tell(world: World, count: int) -> list[int]:
    """a says 0, 1, 2 ... to b; what b heard, in its order."""
    for number in range(count):
        world.command("a", number, delay=number / 1e5)
    world.run_for(10)
    return heard(world)


def test_without_faults_everything_arrives_once_and_in_order() -> None:
    assert tell(a_world(), 50) == list(range(50))


def test_what_arrives_is_what_the_buffer_held_when_it_was_sent() -> None:
    world = a_world()
    core = world.processes["a"].core
    assert isinstance(core, Teller)
    world.command("a", 1)
    world.step()
    core.page[:] = b"new"
    world.run_for(1)
    assert world.processes["b"].journal == [OLD]


def test_each_fault_does_what_its_name_says() -> None:
    def with_fault(fault: Fault, **more: float) -> list[int]:
        return tell(a_world(Rule(fault, **more)), 50)  # type: ignore[arg-type]

    everything = list(range(50))
    assert 10 < len(with_fault(Fault.LOSS, chance=0.5)) < 40
    assert with_fault(Fault.DELAY, seconds=0.1) == everything
    assert sorted(with_fault(Fault.DUPLICATE)) == sorted(everything * 2)
    overtaken = with_fault(Fault.REORDER, seconds=0.1)
    assert overtaken != everything and sorted(overtaken) == everything
    assert with_fault(Fault.PARTITION) == []
    assert len(with_fault(Fault.DAMAGE)) < 50


def test_a_partition_may_be_one_way_and_ends() -> None:
    world = a_world(Rule(Fault.PARTITION, "a", "b", end=1.0))
    world.command("a", 1)
    world.command("b", 2)
    world.command("a", 3, delay=2.0)
    world.run_for(5)
    assert heard(world) == [2, 3]


def test_rules_look_at_the_message_and_the_first_verdict_wins() -> None:
    pages, hello = Letter("a", "b", OPCODE, 0.0), Letter("a", "b", 0x03, 0.0)
    only_pages = Rule(Fault.LOSS, opcodes=(OPCODE,))
    rules = (Rule(Fault.PARTITION, "node*"), only_pages, Rule(Fault.DAMAGE))
    draw = random.Random(1)
    assert Judge(rules, draw).verdict(pages).copies == ()
    assert Judge(rules, draw).verdict(hello).damaged
    assert Judge(rules[:2], draw).verdict(hello).copies == (0.0,)
    assert tell(a_world(only_pages), 3) == []


def test_rules_and_crashes_say_what_they_do() -> None:
    rule = Rule(Fault.DELAY, "node*", "b", (0x03,), start=1, end=2, chance=0.5, seconds=3)
    assert rule.describe() == (
        f"delay of {Hello.__name__} up to 3 s on node* -> b with chance 0.5"
        " from 1.000 s until 2.000 s"
    )
    crash = Crash("node1", 1.0, 0.5, effects=2, keep_zone=False)
    assert crash.describe() == (
        "node1 dies at 1.000 s after 2 effects and is back 0.500 s later without its zone"
    )


def test_a_deadline_comes_when_it_was_asked_for() -> None:
    world = a_world()
    core = world.processes["a"].core
    assert isinstance(core, Teller)
    core.at = 3.0
    world.command("a", 1)
    world.run_for(2.9)
    assert world.processes["a"].journal == []
    world.run_for(0.2)
    assert world.processes["a"].journal == [b"rang"]


def test_a_process_dies_at_an_effect_boundary_and_comes_back_with_its_journal() -> None:
    world = a_world()
    journals: list[list[bytes]] = []
    tell(world, 1)
    world.crash_after("b", 1)
    world.command("a", 8)
    world.run_for(1)
    assert heard(world) == [0], "the Report after the Record was not carried out"
    assert world.processes["b"].core is None
    boot = world.processes["b"].boot

    def make(new_boot: int, journal: list[bytes]) -> Teller:
        journals.append(list(journal))
        return Teller("b", "a")

    world.restart("b", make)
    assert journals == [[OLD, OLD]] and world.processes["b"].boot > boot


def test_what_never_happens_is_stuck() -> None:
    world = a_world(Rule(Fault.LOSS))
    world.command("a", 1)
    with pytest.raises(Stuck, match="hearing is not done 5 s after"):
        world.run_until(lambda: bool(heard(world)), within=5, what="hearing")


def test_a_core_that_asks_for_the_past_for_ever_is_found_out() -> None:
    class Restless(Teller):
        def next_deadline(self) -> float | None:
            return 0.0

    world = World(1, key=KEY)
    world.add("a", lambda boot, journal: Restless("a"))
    with pytest.raises(AssertionError, match="same deadline for ever"):
        world.run_for(1)


class Looked(Teller):
    """Counts how often its invariants are looked at."""

    looks = 0

    def validate(self) -> None:
        self.looks += 1


def a_looked_at_world(every: int) -> tuple[World, Looked, Looked]:
    world = World(7, key=KEY, every=every)
    one, other = Looked("a", "b"), Looked("b", "a")
    world.add("a", lambda boot, journal: one)
    world.add("b", lambda boot, journal: other)
    return world, one, other


def test_invariants_are_looked_at_after_so_many_events() -> None:
    for every, least, most in ((1, 1600, 1600), (16, 80, 120)):
        world, one, other = a_looked_at_world(every)
        tell(world, 1600)
        assert least <= one.looks <= most and least <= other.looks <= most


def test_invariants_are_looked_at_when_something_has_happened_to_anybody() -> None:
    world, one, other = a_looked_at_world(10**6)
    tell(world, 10)
    assert (one.looks, other.looks) == (1, 1), "after its first event"
    world.check()
    assert (one.looks, other.looks) == (2, 2)
    world.crash("b")
    tell(world, 10)
    assert (one.looks, other.looks) == (3, 2)
    world.restart("b")
    tell(world, 10)
    assert (one.looks, other.looks) == (4, 3)


def digest(seed: int) -> str:
    world = a_world(*swarm(random.Random(seed), ["a", "b"], 1.0, 0.5), seed=seed)
    tell(world, 100)
    return world.journal_digest()


def test_the_same_seed_gives_the_same_bytes_whatever_the_hash_seed() -> None:
    seeds = [3, 4, 5]
    program = f"from tests.test_world import digest; print([digest(s) for s in {seeds}])"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "42")
    }
    assert outputs == {f"{[digest(seed) for seed in seeds]}\n"}
    assert len({digest(seed) for seed in seeds}) == 3
