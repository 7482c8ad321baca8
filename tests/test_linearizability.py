"""Histories of one word, told by hand and drawn: which of them a memory could have given."""

from __future__ import annotations

import random
import time
from itertools import permutations
from typing import NamedTuple

import numpy as np
import pytest

from numalab.linearizability import NEVER, Operations, check_registers


class Told(NamedTuple):
    """One operation: s or l, value, start, end (None: nobody answered)."""

    kind: str
    value: int
    start: int
    end: int | None
    key: int = 0


def operations(*told: Told) -> Operations:
    def column(numbers: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array(numbers, np.int64)

    return Operations(
        column([t.key for t in told]),
        np.array([t.kind == "s" for t in told], np.bool_),
        np.array([t.value for t in told], np.uint64),
        column([t.start for t in told]),
        column([NEVER if t.end is None else t.end for t in told]),
        column(list(range(len(told)))),
    )


def story(text: str) -> tuple[Told, ...]:
    """``s1:0-2 l1:3-4``; ``s1:0-`` was never answered; ``b/l1:0-1`` is of another word."""
    found = []
    for word in text.split():
        place, _, rest = word.rpartition("/")
        what, _, times = rest.partition(":")
        start, _, end = times.partition("-")
        value = int(what[1:])
        found.append(Told(what[0], value, int(start), int(end) if end else None, ord(place or "a")))
    return tuple(found)


GOOD = {
    "a word is 0 at first": "l0:0-1",
    "a load gives what was stored": "s1:0-1 l1:2-3",
    "during a store both values may be seen": "s1:0-9 l0:1-2 l1:3-4 l1:10-11",
    "an unanswered store may never happen": "s1:0- l0:5-6 l0:7-8",
    "an unanswered store may happen late": "s1:0- l0:5-6 l1:7-8",
    "two stores at once happen in either order": "s1:0-5 s2:0-5 l1:6-7",
    "and the other way round": "s1:0-5 s2:0-5 l2:6-7",
    "a load may overlap all": "s1:0-1 s2:2-3 l0:0-9 l1:0-9 l2:0-9",
    "words are apart": "a/s1:0-1 b/l0:2-3 a/l1:2-3",
    "moments that touch are at once": "s1:0-2 l0:2-3",
    "equal values": "s1:0-1 s2:2-3 s1:4-5 l1:6-7",
    "a store of what is there already": "s0:0-1 l0:2-3",
    "a chain of handovers": "s1:0-3 l1:1-2 s2:2-6 l2:4-5 s3:5-9 l3:7-8",
}
BAD = {
    "an old value after a new one": "s1:0-9 l1:1-2 l0:3-4",
    "an acknowledged store is lost": "s1:0-1 l0:2-3",
    "a value from nowhere": "s1:0-1 l7:2-3",
    "a value from the future": "l1:0-1 s1:2-3",
    "an overwritten value comes back": "s1:0-1 s2:2-3 l1:4-5",
    "back and forth between stores at once": "s1:0-9 s2:0-9 l1:1-2 l2:3-4 l1:5-6",
    "two readers disagree on the order": "s1:0-3 s2:0-3 l1:4-5 l2:6-7",
    "seen, and then gone with nothing stored since": "s1:0- l1:1-2 l0:3-4",
    "a store between two loads of what was before": "s1:0-1 l1:2-3 s2:4-5 l1:6-7",
    "a value that came back after an unanswered store": "s1:0-1 s2:2- l2:3-4 l1:5-6",
    "of another word": "a/s1:0-1 b/l1:2-3",
    "a zero after two values": "s1:0-1 s2:0-1 l0:2-3",
    "equal values, and one in between that was never overwritten": "s1:0-1 s1:2-3 s2:4-5 l1:6-7",
    "equal values, seen before any of them": "l1:0-1 s1:2-3 s1:4-5",
    "a whole store inside the certain time of another": "s1:0-1 s2:3-4 l1:2-3 l1:5-6",
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
def test_a_history_that_a_memory_can_have(text: str) -> None:
    assert check_registers(operations(*story(text))) == []


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_a_history_that_no_memory_can_have(text: str) -> None:
    conflicts = check_registers(operations(*story(text)))
    assert conflicts and all(conflict.definite for conflict in conflicts)


def test_a_conflict_shows_the_few_operations_that_matter() -> None:
    noise = tuple(Told("l", 0, 2 * n, 2 * n + 1) for n in range(50))
    wrong = story("s1:200-209 l1:201-202 l0:203-204")
    (conflict,) = check_registers(operations(*noise, *wrong))
    assert conflict.rows == (50, 51, 52)


def test_stores_of_equal_values_that_are_too_many_are_unknown() -> None:
    unanswered = tuple(Told("s", n % 20, n, None) for n in range(40))
    (conflict,) = check_registers(operations(*unanswered, Told("l", 77 % 20, 100, 101)))
    assert not conflict.definite


# ---- against every order there is ----------------------------------------------------------


def explains(order: tuple[Told, ...]) -> bool:
    held = 0
    for number, one in enumerate(order):
        for later in order[number + 1 :]:
            if later.end is not None and later.end < one.start:
                return False
        if one.kind == "s":
            held = one.value
        elif one.value != held:
            return False
    return True


def is_linearizable(told: tuple[Told, ...]) -> bool:
    """By trying everything: each subset of the unanswered stores, in each order."""
    sure = [one for one in told if one.end is not None]
    unsure = [one for one in told if one.end is None]
    for chosen in range(1 << len(unsure)):
        some = [one for bit, one in enumerate(unsure) if chosen >> bit & 1]
        if any(explains(order) for order in permutations(sure + some)):
            return True
    return False


def draw(seed: int, *, unique: bool) -> tuple[Told, ...]:
    chance = random.Random(seed)
    values = iter(range(1, 99))
    told: list[Told] = []
    known = [0]
    for _ in range(chance.randint(3, 6)):
        start = chance.randint(0, 8)
        end: int | None = start + chance.randint(0, 5)
        if chance.random() < 0.5:
            value = next(values) if unique else chance.randint(0, 2)
            known.append(value)
            end = None if chance.random() < 0.2 else end
            told.append(Told("s", value, start, end))
        else:
            told.append(Told("l", -1, start, end))
    return tuple(t if t.kind == "s" else t._replace(value=chance.choice(known)) for t in told)


@pytest.mark.parametrize("unique", [True, False], ids=["unique", "equal values"])
def test_the_verdict_is_that_of_trying_everything(unique: bool) -> None:
    verdicts = {True: 0, False: 0}
    for seed in range(400):
        told = draw(seed, unique=unique)
        right = is_linearizable(told)
        verdicts[right] += 1
        assert (check_registers(operations(*told)) == []) == right, f"seed {seed}: {told}"
    assert min(verdicts.values()) > 80, "both verdicts are met"


# ---- at size -------------------------------------------------------------------------------


def a_long_history(count: int) -> Operations:
    """Stores and loads of 4,000 words by operations that overlap, as one memory answers them."""
    chance = np.random.default_rng(1)
    key = chance.integers(0, 4000, count)
    is_store = chance.random(count) < 0.4
    moment = np.arange(count, dtype=np.int64) * 1000
    value = np.zeros(count, np.uint64)
    order = np.argsort(key, kind="stable")
    last = np.where(is_store[order], np.arange(count), -1)
    begins = np.concatenate([[True], key[order][1:] != key[order][:-1]])
    floor = np.where(begins, np.arange(count), 0)
    floor = np.maximum.accumulate(floor)
    last = np.maximum.accumulate(last)
    source = np.where(last >= floor, last, -1)
    value[order] = np.where(source >= 0, order[source] + 1, 0)
    start = moment - chance.integers(0, 5_000_000, count)
    end = moment + chance.integers(0, 5_000_000, count)
    return Operations(key.astype(np.int64), is_store, value, start, end, key.astype(np.int64))


def test_a_million_operations_are_checked_in_a_few_seconds() -> None:
    history = a_long_history(1_000_000)
    started = time.perf_counter()
    assert check_registers(history) == []
    assert time.perf_counter() - started < 30
    lost = int(np.flatnonzero(~history.is_store & (history.value > 0))[-1])
    history.value[lost] = 0
    assert check_registers(history)
