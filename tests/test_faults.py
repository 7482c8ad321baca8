"""One vocabulary of faults: it is read, printed, applied to letters and to simulated processes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from coordinator.life import PLACES
from numalab.faults import (
    Crash,
    Fault,
    Judge,
    Lack,
    Letter,
    Pause,
    Rule,
    Side,
    Step,
    Strain,
    draw_schedule,
    format_schedule,
    parse_schedule,
)
from numalab.simulation.cluster import Cluster, draw_plan
from numalab.simulation.world import World
from protocol.codec import Envelope, Kind, encode
from protocol.core import ConfigurationError
from protocol.faults import STEPS
from protocol.letters import Letters
from protocol.messages import CopyPages, IsolateLruPage, PutPages, Statuses
from protocol.schema import COORDINATOR, ROWS, Message
from tests.test_world import KEY, Teller, heard

COPY, PUT, STATUSES = (ROWS[cls].opcode for cls in (CopyPages, PutPages, Statuses))
SCHEDULE = """\
# everything that can be said
partition node0 <-> node1 at=2 until=3.5
loss * -> node* message=CopyPages,PutPages side=answer chance=0.5
delay * -> * side=answer seconds=0.5
duplicate * -> coordinator nth=3
reorder * -> * seconds=0.05 times=4
damage client* -> node1 before=COPYING
bandwidth node0 -> node1 rate=1000000
crash source before=COPYING nth=2 back=0.5
crash node1 at=1 back=0.5 effects=2 zone=lost
crash coordinator share=0.5 back=0
pause coordinator at=4 for=3
full node1 at=2 for=3
pinned client at=2 for=3 pages=64
slow-disk coordinator at=1 for=5 delay=0.2
full-disk coordinator at=9 for=1.5
"""


def test_a_schedule_is_read_and_printed_as_the_same_one() -> None:
    schedule = parse_schedule(SCHEDULE)
    lines = [line for line in SCHEDULE.splitlines() if not line.startswith("#")]
    assert sorted(map(sorted, map(str.split, format_schedule(schedule).splitlines()))) == sorted(
        map(sorted, map(str.split, lines))
    )
    assert parse_schedule(format_schedule(schedule)) == schedule
    assert all(fault.describe() for fault in schedule)


def test_the_example_in_the_documentation_is_a_schedule() -> None:
    path = Path(__file__).parent.parent / "docs/examples/stress.faults"
    assert len(parse_schedule(path.read_text())) == 11


@pytest.mark.parametrize("seed", range(20))
def test_what_is_drawn_can_be_written_down(seed: int) -> None:
    schedule = draw_schedule(random.Random(seed), ["node0", "node1", "node2"], 60.0)
    assert len(schedule) > 8
    assert parse_schedule(format_schedule(schedule)) == schedule


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("los * -> *", "begins with 'los': write one of loss,"),
        ("loss node0", "does not say which links: write 'loss node0 -> node1'"),
        ("crash", "does not name one process: write 'crash node0'"),
        ("pause node0 back=1", "has 'back=': only at, before, after, nth, share, for can be"),
        ("loss * -> * message=Nothing", "has 'message=Nothing', which is no value of message"),
        ("crash node0 before=MOVED", "has 'before=MOVED', which is no value of before"),
        ("loss * -> * chance=2", "which is no value of chance"),
        ("crash node0 at=inf", "which is no value of at"),
        ("bandwidth * -> *", "needs rate=BYTES"),
        ("crash node0 before=COPYING after=COPYING", "say it once"),
    ],
)
def test_what_is_wrong_with_a_line_is_a_sentence(line: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match="^Line 2 of the schedule .*[.]$") as refused:
        parse_schedule(f"# a comment\n{line}\n")
    assert said in str(refused.value)


def test_the_steps_are_those_of_the_life_of_a_page() -> None:
    asked = {state.name: place.asks.partition(":")[0] for state, place in PLACES.items()}
    assert {state: role for state, (_, role) in STEPS.items()} == {
        state: role for state, role in asked.items() if role
    }


# ---- letters -------------------------------------------------------------------------------


def asked(opcode: int, node: str = "node0", now: float = 0.0) -> Letter:
    return Letter(COORDINATOR, node, opcode, now, Side.QUESTION, opcode)


def answered(opcode: int, node: str = "node0", now: float = 0.0) -> Letter:
    return Letter(node, COORDINATOR, STATUSES, now, Side.ANSWER, opcode)


def judge(text: str) -> Judge:
    return Judge(parse_schedule(text), random.Random(1))


def lost(judge: Judge, *letters: Letter) -> list[bool]:
    return [judge.verdict(letter).copies == () for letter in letters]


def test_a_request_can_be_lost_and_an_answer_can() -> None:
    questions = judge("loss * -> * message=CopyPages side=question")
    assert lost(questions, asked(COPY), answered(COPY), asked(PUT)) == [True, False, False]
    answers = judge("loss * -> * message=CopyPages side=answer")
    assert lost(answers, asked(COPY), answered(COPY), answered(PUT)) == [False, True, False]


def test_the_nth_letter_alone_or_only_so_many() -> None:
    third = judge("loss * -> * nth=3")
    assert lost(third, *[asked(COPY)] * 5) == [False, False, True, False, False]
    twice = judge("loss * -> * times=2")
    assert lost(twice, *[asked(COPY)] * 4) == [True, True, False, False]
    assert (twice.matched[0], twice.hits[0]) == (4, 2)


def test_a_bandwidth_makes_letters_queue() -> None:
    slow = judge("bandwidth * -> * rate=1000")
    letters = [Letter("a", "b", 1, 1.0, size=500), Letter("a", "b", 1, 1.0, size=500)]
    assert [slow.verdict(letter).copies for letter in letters] == [(0.5,), (1.0,)]
    assert slow.verdict(Letter("a", "b", 1, 9.0, size=500)).copies == (0.5,)


def test_a_step_tells_the_source_of_a_migration_from_its_target() -> None:
    isolate = ROWS[IsolateLruPage].opcode
    releasing = judge("crash source before=RELEASING")
    assert releasing.struck(asked(isolate, "node2")) == []
    new_pages = asked(ROWS[STEPS["ALLOCATING"][0]].opcode, "node3")
    assert releasing.struck(new_pages) == []
    assert releasing.struck(asked(PUT, "node3")) == [], "that puts the unused frame of a target"
    assert [name for _, name, _ in releasing.struck(asked(PUT, "node2"))] == ["node2"]
    assert releasing.struck(asked(PUT, "node2")) == [], "a process fault happens once"


def test_the_other_end_of_a_migration_can_be_struck() -> None:
    settling = judge("crash source after=SETTLING nth=2")
    settling.verdict(asked(COPY, "node2"))
    settling.verdict(asked(ROWS[STEPS["ALLOCATING"][0]].opcode, "node3"))
    putback = ROWS[STEPS["SETTLING"][0]].opcode
    assert settling.struck(answered(putback, "node3")) == []
    assert [name for _, name, _ in settling.struck(answered(putback, "node3"))] == ["node2"]


def frames(kind: Kind, message: Message, source: str, target: str, xid: int) -> Letter:
    envelope = Envelope(KEY, kind, ROWS[type(message)].opcode, xid, 0, source, target, 1, 1, 1)
    return letters.read(source, target, encode(envelope, message), 0.0, opens=True)


letters = Letters()


def test_an_answer_is_known_by_its_question() -> None:
    pages = np.zeros(0, np.uint32)
    question = frames(Kind.QUESTION, PutPages(pages, pages), "coordinator", "node1", 7)
    answer = frames(Kind.ANSWER, Statuses(pages.astype(np.int32)), "node1", "coordinator", 7)
    other = frames(Kind.ANSWER, Statuses(pages.astype(np.int32)), "node2", "coordinator", 7)
    assert (question.side, question.asked) == (Side.QUESTION, PUT)
    assert (answer.side, answer.opcode, answer.asked) == (Side.ANSWER, STATUSES, PUT)
    assert other.asked == -1


# ---- the simulated world -------------------------------------------------------------------


def world_with(text: str) -> World:
    world = World(7, key=KEY)
    world.add("a", lambda boot, journal: Teller("a", "b"))
    world.add("b", lambda boot, journal: Teller("b", "a"))
    world.harm.suffer(parse_schedule(text))
    return world


def tell(world: World, *times: float) -> list[int]:
    for number, time in enumerate(times):
        world.command("a", number, delay=time)
    world.run_for(20)
    return heard(world)


def test_a_process_dies_at_its_time_and_comes_back() -> None:
    world = world_with("crash b at=1 back=2")
    assert tell(world, 0.5, 2.0, 4.0) == [0, 2]
    assert world.harm.judge.hits[0] == 1


def test_a_process_that_stands_still_sees_everything_later() -> None:
    world = world_with("pause b at=1 for=5")
    tell(world, 0.5, 2.0, 3.0, 7.0)
    times = [round(time) for time, _, _ in world.notes]
    assert heard(world) == [0, 1, 2, 3] and times == [1, 6, 6, 7]


def test_a_slow_disk_keeps_the_answers_back_and_a_full_one_ends_the_process() -> None:
    world = world_with("full-disk b at=1 for=2")
    assert tell(world, 0.5, 1.5, 2.0, 4.0) == [0, 3]
    assert len(world.processes["b"].journal) == 2
    slow = world_with("slow-disk b at=1 for=9 delay=0.3")
    tell(slow, 2.0)
    assert slow.harm.judge.hits[0] == 1


def test_a_healed_world_kills_nobody_any_more() -> None:
    world = world_with("crash b at=1\nloss * -> * at=2")
    world.heal()
    assert tell(world, 0.5, 2.0, 4.0) == [0, 1, 2]


def test_a_node_of_a_simulated_machine_dies_at_a_step_of_a_migration() -> None:
    plan = draw_plan(1)
    cluster = Cluster(plan)
    cluster.world.harm.suffer((Crash("source", step=Step("before", "COPYING"), after=0.5),))
    question = asked(COPY, "node1")
    assert [name for _, name, _ in cluster.world.harm.judge.struck(question)] == ["node1"]


def test_every_kind_of_fault_is_drawn() -> None:
    kinds: set[type | Fault | Lack] = set()
    for seed in range(30):
        for fault in draw_schedule(random.Random(seed), ["node0", "node1"], 30.0):
            kinds.add(fault.fault if isinstance(fault, Rule) else type(fault))
            if isinstance(fault, Strain):
                kinds.add(fault.lack)
    assert kinds >= {*Fault, Crash, Pause, Lack.FULL, Lack.PINNED, Lack.SLOW_DISK}
