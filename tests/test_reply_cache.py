"""What an answerer remembers of one asker, and when it forgets."""

from __future__ import annotations

import pytest

from protocol.reply_cache import SLOTS, ReplyCache

ANSWER = (b"answer",)


def test_the_floor_empties_it() -> None:
    cache = ReplyCache()
    for xid in range(1, 10):
        assert cache.admit(xid, 1)
        cache.settle(xid, ANSWER)
    assert cache.admit(10, 10) and len(cache) == 1
    assert cache.admit(10 + 5 * SLOTS, 10 + 5 * SLOTS) and len(cache) == 1
    cache.validate()


def test_a_new_question_in_a_slot_settles_the_old_one_there() -> None:
    cache = ReplyCache()
    assert cache.admit(1, 1) and cache.admit(2, 1)
    assert cache.admit(2 + SLOTS, 1)
    assert not cache.awaits(2) and cache.awaits(1)
    assert not cache.admit(2, 1), "an echo of the old one"
    cache.validate()


def test_it_never_holds_more_than_its_slots() -> None:
    cache = ReplyCache()
    for xid in range(1, 4 * SLOTS):
        assert cache.admit(xid, 1)
        cache.settle(xid, ANSWER)
        cache.validate()
    assert len(cache) == SLOTS


def test_an_answer_is_given_once_and_kept_while_it_is_wanted() -> None:
    cache = ReplyCache()
    assert cache.admit(1, 1) and cache.kept(1) is None
    assert cache.awaits(1)
    cache.settle(1, ANSWER)
    assert cache.kept(1) is ANSWER
    with pytest.raises(AssertionError, match="answered twice"):
        cache.awaits(1)
    assert cache.admit(2, 2)
    assert cache.kept(1) is None and not cache.awaits(1)
