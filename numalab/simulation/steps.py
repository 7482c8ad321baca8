"""Faults at a named step of a migration: before or after what a state of the life table asks for.

*Before*: the question of the state is at its node and not executed yet.  *After*: the node has done
it, and its answer is at the coordinator and not taken yet.  A state that asks nothing is reached by
the answer of the one before it, so *before* is as above, and *after* is when the coordinator has
taken the answer and recorded what follows, and nobody has heard of that yet.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from coordinator.coordinator import Coordinator
from coordinator.life import PLACES, State
from coordinator.pagelist import PageList
from numalab.simulation.happening import Arrival
from numalab.simulation.world import World
from protocol.codec import Kind, peek
from protocol.faults import STEPS, TARGET
from protocol.messages import MigratePrep
from protocol.schema import COORDINATOR, ROWS, node_name

BACK_SECONDS = 0.5
PAUSE_SECONDS = 6.0


class What(StrEnum):
    """What goes wrong at the step."""

    SOURCE = "source crashes"
    TARGET = "target crashes"
    COORDINATOR = "coordinator crashes"
    REQUEST = "request lost"
    ANSWER = "answer lost"
    DUPLICATE = "duplicate"
    PAUSE = "pause and wake"


#: The question of each state that has one, and whether it is put to the target.
QUESTIONS = {State[name]: (question, role == TARGET) for name, (question, role) in STEPS.items()}
#: The state whose answer brings a page into one that asks nothing.
REACHED_FROM: dict[State, State] = {
    State.ISOLATED: State.ISOLATING,
    State.ALLOCATED: State.ALLOCATING,
    State.SETTLED: State.SETTLING,
    State.MOVED: State.RELEASING,
    State.FAILED: State.PUTTING_BACK,
    State.SKIPPED: State.ISOLATING,
}


#: States that every page that moves comes through.
_COMMON = (
    *(State.TAKING, State.ISOLATING, State.ISOLATED, State.ALLOCATING, State.ALLOCATED),
    *(State.COPYING, State.SETTLING, State.SETTLED, State.RELEASING, State.MOVED),
)


@dataclass(frozen=True, slots=True)
class StepFault:
    """``what`` happens the ``nth`` time that a migration is ``before`` or after its ``state``.

    any_after: seconds of load after which the next question of any migration will do, whatever
    the state; None: never.
    """

    state: State
    before: bool
    what: What
    nth: int = 1
    any_after: float | None = None

    def describe(self) -> str:
        """One sentence."""
        when = "before" if self.before else "after"
        which = "" if self.nth == 1 else f", the {self.nth}. time"
        late = "" if self.any_after is None else f"; after {self.any_after:g} s at any state"
        return f"{self.what} {when} {self.state.name}{which}{late}"


def all_steps() -> Iterator[StepFault]:
    """Every cell of the matrix, row by row."""
    for state in State:
        for before in (True, False):
            for what in What:
                yield StepFault(state, before, what)


def draw_step(draw: random.Random, any_after: float) -> StepFault:
    """The crash of a process at some step of some migration, that many migrations come to."""
    what = draw.choice((What.SOURCE, What.TARGET, What.COORDINATOR))
    state = draw.choice((*_COMMON, *_COMMON, *State))
    return StepFault(state, draw.random() < 0.5, what, draw.choice((1, 1, 2, 3)), any_after)


class StepWatch:
    """Sees every arrival in a world, and lets the fault happen at its step; ``hits``: how often."""

    def __init__(self, world: World, fault: StepFault) -> None:
        self.world, self.fault = world, fault
        self.hits = 0
        self._seen = 0
        #: The states whose question will do.
        self._asks: tuple[State, ...] = (REACHED_FROM.get(fault.state, fault.state),)
        #: (node, xid) of the question whose answer is waited for, and (source, target) of its page.
        self._awaited: tuple[str, int] | None = None
        self._pair = (0, 0)

    @property
    def must_happen(self) -> bool:
        """It has not happened yet, though it has to in the end."""
        return not self.hits and self.fault.any_after is not None

    def take_any(self) -> None:
        """From now on the first question of any migration will do.

        An answer that is waited for may never come: who was to give it may have died.
        """
        if not self.hits:
            self._asks, self._awaited = tuple(QUESTIONS), None
            self.fault = replace(self.fault, nth=self._seen + 1)

    def _takes_any(self) -> bool:
        return len(self._asks) > 1 and self._seen > self.fault.nth

    def __call__(self, arrival: Arrival) -> bool:
        """Whether this arrival has been dealt with."""
        source, target = arrival.packet.source, arrival.packet.target
        asks, awaits = source == COORDINATOR, self._awaited is not None and target == COORDINATOR
        if self.hits or not (asks or awaits) or arrival.frames != arrival.packet.frames:
            return False
        kind, opcode, xid, *_ = peek(arrival.frames[0])
        if asks and kind == Kind.QUESTION and self._is_the_step(target, opcode):
            self._seen += 1
            if self._seen == self.fault.nth or self._takes_any():
                if self.fault.before:
                    return self._happens(arrival, is_answer=False)
                self._awaited = (target, xid)
        elif awaits and kind == Kind.ANSWER and self._awaited == (source, xid):
            return self._happens(arrival, is_answer=True)
        return False

    def _is_the_step(self, node: str, opcode: int) -> bool:
        """This question is the one of the state, for pages that are in the state."""
        coordinator = self.world.processes[COORDINATOR].core
        if not isinstance(coordinator, Coordinator):
            return False
        lists = coordinator.memory.page_lists
        for state in self._asks:
            question = MigratePrep if state == State.LISTED else QUESTIONS[state][0]
            met = opcode == ROWS[question].opcode
            if met and self._choose(lists, node, state):
                if len(self._asks) > 1:
                    self.fault = replace(self.fault, state=state)
                return True
        return False

    def _choose(self, lists: list[PageList], node: str, state: State) -> bool:
        """Some page of a migration is in the state and waits for this node; remember its pair."""
        nid = int(node.removeprefix("node"))
        if state == State.LISTED:
            # What is prepared has no list yet.
            self._pair = (nid, (nid + 1) % 2)
            return True
        _, of_target = QUESTIONS[state]
        for pages in lists:
            for row in np.flatnonzero(pages.state == state):
                source, target = int(pages.source[row]), int(pages.target[row])
                if state == State.ISOLATING:
                    target = (source + 1) % 2
                elif state == State.ALLOCATING:
                    target = nid
                if nid == (target if of_target else source):
                    self._pair = (source, target)
                    return True
        return False

    def _happens(self, arrival: Arrival, *, is_answer: bool) -> bool:
        self.hits += 1
        arrival.packet.fate = f"met: {self.fault.describe()}"
        world, what, receiver = self.world, self.fault.what, arrival.packet.target
        taken = is_answer and not PLACES[self.fault.state].asks
        match what:
            case What.COORDINATOR:
                if taken:
                    world.hand_over(arrival, mute=True)
                world.crash_for(COORDINATOR, BACK_SECONDS)
                return is_answer
            case What.SOURCE | What.TARGET:
                if taken:
                    world.hand_over(arrival)
                victim = node_name(self._pair[what == What.TARGET])
                world.crash_for(victim, BACK_SECONDS)
                return taken or victim == receiver
            case What.REQUEST | What.ANSWER:
                # The one that is here is lost; or it is executed, and what follows is lost.
                if (what == What.ANSWER) != is_answer:
                    world.hand_over(arrival, mute=True)
            case What.DUPLICATE:
                world.hand_over(arrival)
                world.hand_over(arrival)
            case What.PAUSE:
                world.pause(receiver)
                world.call(PAUSE_SECONDS, lambda: world.resume(receiver))
                return False
        return True
