"""Two sessions exchange letters by hand: what is asked, answered, refused and forgotten."""

from __future__ import annotations

import errno
from dataclasses import replace

import numpy as np
import pytest

from protocol import codec
from protocol.codec import Kind, WireError, encode
from protocol.core import Effect, Frames, Report, Send
from protocol.messages import (
    CountZone,
    Describe,
    Done,
    LandPages,
    NodeDescription,
    Statuses,
    ZoneCount,
)
from protocol.notes import (
    AnswerIndefinite,
    EchoSuppressed,
    MessageAsked,
    Note,
    QuestionResent,
    StaleRefused,
)
from protocol.reply_cache import SLOTS
from protocol.schema import COORDINATOR, Message
from protocol.session import Answer, Question, Session
from protocol.syscalls import Exit

KEY = b"k" * 16
NODE = "node0"


def sends(effects: list[Effect]) -> list[Frames]:
    return [effect.frames for effect in effects if isinstance(effect, Send)]


def notes(effects: list[Effect]) -> list[Note]:
    return [effect.note for effect in effects if isinstance(effect, Report)]


def hear(session: Session, letters: list[Frames], now: float = 0.0) -> list[Question | Answer]:
    """Deliver letters in order; what the session makes of them."""
    heard: list[Question | Answer] = []
    for frames in letters:
        heard.extend(session.receive(frames, now=now))
        session.validate()
    return heard


def questions(heard: list[Question | Answer]) -> list[Question]:
    return [item for item in heard if isinstance(item, Question)]


def pair(**options: int) -> tuple[Session, Session]:
    """A coordinator that asks and a node that answers; they have met."""
    asker = Session(COORDINATOR, boot_id=1, key=KEY, epoch=1, follows_epoch=False, **options)
    node = Session(NODE, boot_id=1, key=KEY)
    meet(asker, node)
    return asker, node


def meet(asker: Session, node: Session) -> None:
    """Exchange a Hello and one question, and settle both."""
    asker.ask(NODE, Exit(0), now=0.0)
    hear(node, sends(asker.take_effects()))
    hear(asker, sends(node.take_effects()))
    for question in questions(hear(node, sends(asker.take_effects()))):
        node.answer(question, Done(0))
    hear(asker, sends(node.take_effects()))
    assert asker.next_deadline() is None


# ---- one at a time -------------------------------------------------------------------------


def test_a_stranger_is_greeted_before_it_is_asked_and_tells_boot_and_epoch() -> None:
    client = Session("client", boot_id=5, key=KEY)
    coordinator = Session(COORDINATOR, boot_id=7, key=KEY, epoch=3, follows_epoch=False)
    ticket = client.ask(COORDINATOR, Exit(pid=9), now=0.0)

    hello = client.take_effects()
    assert notes(hello) == [MessageAsked(COORDINATOR, 0x03)]
    assert hear(coordinator, sends(hello)) == []
    assert hear(client, sends(coordinator.take_effects())) == []
    assert client.epoch == 3

    asked = client.take_effects()
    assert notes(asked) == [MessageAsked(COORDINATOR, 0x58)]
    (question,) = questions(hear(coordinator, sends(asked)))
    assert isinstance(question.message, Exit) and question.message.pid == 9
    assert (question.peer, question.xid, question.boot) == ("client", 1, 5)

    coordinator.answer(question, Done(0))
    (answer,) = hear(client, sends(coordinator.take_effects()))
    assert isinstance(answer, Answer) and isinstance(answer.message, Done)
    assert (answer.ticket, answer.peer, answer.status) == (ticket, COORDINATOR, 0)
    assert client.next_deadline() is None


def test_an_answer_lost_on_the_way_is_given_again_and_not_worked_out_again() -> None:
    asker, node = pair()
    asker.ask(NODE, Exit(1), now=0.0)
    (question,) = questions(hear(node, sends(asker.take_effects())))
    node.answer(question, Done(0))
    (lost,) = sends(node.take_effects())

    asker.tick(now=0.25)
    again = asker.take_effects()
    assert notes(again) == [QuestionResent(NODE, 0x58)]
    assert questions(hear(node, sends(again))) == []
    effects = node.take_effects()
    assert notes(effects) == [EchoSuppressed(COORDINATOR)]
    assert sends(effects) == [lost]
    (answer,) = hear(asker, sends(effects))
    assert isinstance(answer, Answer) and answer.status == 0
    assert hear(asker, [lost]) == []


def test_an_echo_of_a_question_under_way_is_ignored() -> None:
    asker, node = pair()
    asker.ask(NODE, Exit(1), now=0.0)
    (question,) = questions(hear(node, letters := sends(asker.take_effects())))
    assert hear(node, letters) == []
    effects = node.take_effects()
    assert notes(effects) == [EchoSuppressed(COORDINATOR)] and sends(effects) == []
    node.answer(question, Done(0))
    with pytest.raises(AssertionError, match="answered twice"):
        node.answer(question, Done(0))


def test_an_idempotent_question_is_executed_again_and_its_answer_is_not_kept() -> None:
    asker, node = pair()
    asker.ask(NODE, CountZone(), now=0.0)
    letters = sends(asker.take_effects())
    for _ in range(2):
        (question,) = questions(hear(node, letters))
        node.answer(question, ZoneCount(*range(7)))
    first, second = sends(node.take_effects())
    assert first == second
    assert len(hear(asker, [first, second])) == 1


def test_questions_are_asked_again_with_a_doubling_interval_up_to_its_limit() -> None:
    asker, _ = pair()
    asker.ask(NODE, Exit(1), now=0.0)
    asked_at = [0.0]
    for _ in range(6):
        due = asker.next_deadline()
        assert due is not None
        asker.tick(now=due)
        asked_at.append(due)
    gaps = [after - before for before, after in zip(asked_at, asked_at[1:], strict=False)]
    assert gaps == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]
    assert len(sends(asker.take_effects())) == 7


def test_page_contents_are_sent_again_from_where_they_are() -> None:
    source = Session(NODE, boot_id=1, key=KEY, epoch=1)
    target = Session("node1", boot_id=1, key=KEY, epoch=1)
    target.ask(NODE, Exit(0), now=0.0)
    hear(source, sends(target.take_effects()))
    pages, numbers = memoryview(bytearray(8192)), np.array([3, 4], np.uint32)
    source.ask("node1", LandPages(1, numbers, numbers, numbers.astype(np.uint8), pages), now=0.0)
    source.tick(now=0.25)
    _, first, again = sends(source.take_effects())
    assert first[-1] is pages and again[-1] is pages


# ---- deadlines, window, floor --------------------------------------------------------------


def test_a_question_past_its_deadline_is_indefinite_and_a_late_answer_is_ignored() -> None:
    asker, node = pair()
    ticket = asker.ask(NODE, Exit(1), now=0.0, within=0.1)
    (question,) = questions(hear(node, sends(asker.take_effects())))
    assert asker.next_deadline() == 0.1
    assert asker.tick(now=0.1) == [Answer(ticket, NODE, None, -errno.EAGAIN)]
    asker.validate()
    assert asker.next_deadline() is None
    node.answer(question, Done(0))
    assert hear(asker, sends(node.take_effects())) == []


def test_a_deadline_counts_while_waiting_for_an_unknown_peer_and_ends_the_hello() -> None:
    client = Session("client", boot_id=1, key=KEY)
    ticket = client.ask(NODE, Exit(1), now=0.0, within=1.0)
    over: list[Answer] = []
    while (due := client.next_deadline()) is not None:
        over += client.tick(now=due)
        client.validate()
    assert over == [Answer(ticket, NODE, None, -errno.EAGAIN)]
    assert len(sends(client.take_effects())) == 3


def test_at_most_a_window_is_outstanding_and_the_rest_waits_in_order() -> None:
    asker, node = pair(window=2)
    tickets = [asker.ask(NODE, Exit(pid), now=0.0) for pid in range(5)]
    heard: list[Question | Answer] = []
    executed: list[int] = []
    while letters := sends(asker.take_effects()):
        assert len(letters) <= 2
        asker.validate()
        for question in questions(hear(node, letters)):
            assert isinstance(question.message, Exit)
            executed.append(question.message.pid)
            node.answer(question, Done(0))
        heard += hear(asker, sends(node.take_effects()))
    assert executed == [0, 1, 2, 3, 4]
    assert [item.ticket for item in heard if isinstance(item, Answer)] == tickets


def test_a_cancelled_question_makes_room_and_its_answer_is_ignored() -> None:
    asker, node = pair(window=1)
    first = asker.ask(NODE, Exit(1), now=0.0)
    asker.ask(NODE, Exit(2), now=0.0)
    (question,) = questions(hear(node, sends(asker.take_effects())))
    asker.cancel(first)
    asker.cancel(first)
    (second,) = questions(hear(node, sends(asker.take_effects())))
    assert isinstance(second.message, Exit) and second.message.pid == 2
    node.answer(question, Done(0))
    assert hear(asker, sends(node.take_effects())) == []


def test_a_question_below_the_floor_is_not_executed_however_late_it_comes() -> None:
    asker, node = pair()
    given_up = asker.ask(NODE, Exit(1), now=0.0)
    late = sends(asker.take_effects())
    asker.cancel(given_up)
    asker.ask(NODE, Exit(2), now=0.0)
    assert len(questions(hear(node, sends(asker.take_effects())))) == 1
    assert hear(node, late) == []
    assert notes(node.take_effects()) == [EchoSuppressed(COORDINATOR)]


def test_a_question_that_takes_long_holds_back_neither_its_fellows_nor_memory() -> None:
    asker, node = pair(window=4)
    asker.ask(NODE, Exit(0), now=0.0)
    first_letters = sends(asker.take_effects())
    (long,) = questions(hear(node, first_letters))
    echoes: list[Frames] = []
    for pid in range(1, 3 * SLOTS):
        asker.ask(NODE, Exit(pid), now=0.0)
        letters = sends(asker.take_effects())
        echoes += letters
        (question,) = questions(hear(node, letters))
        node.answer(question, Done(pid))
        assert len(hear(asker, sends(node.take_effects()))) == 1
    assert questions(hear(node, echoes + first_letters)) == []
    node.take_effects()
    node.answer(long, Done(0))
    assert len(hear(asker, sends(node.take_effects()))) == 1


# ---- incarnations --------------------------------------------------------------------------


def test_a_delayed_question_is_not_executed_by_the_next_incarnation() -> None:
    asker, node = pair(window=1)
    sent = asker.ask(NODE, Exit(1), now=0.0)
    asker.ask(NODE, Exit(2), now=0.0)
    delayed = sends(asker.take_effects())
    reborn = Session(NODE, boot_id=2, key=KEY, epoch=1)
    assert hear(reborn, delayed) == []
    refusal = reborn.take_effects()
    assert notes(refusal) == [StaleRefused(COORDINATOR, "boot")]

    assert hear(asker, sends(refusal)) == [Answer(sent, NODE, None, -errno.ENODEV)]
    effects = asker.take_effects()
    assert notes(effects)[1:] == [AnswerIndefinite(NODE, -errno.ENODEV), MessageAsked(NODE, 0x58)]
    (question,) = questions(hear(reborn, sends(effects)))
    assert isinstance(question.message, Exit) and question.message.pid == 2

    assert hear(asker, sends(refusal)) == [], "an echo of the refusal disturbs nothing"
    node.ask(COORDINATOR, Exit(3), now=0.0)
    assert hear(asker, sends(node.take_effects())) == [], "the dead incarnation is not heard"
    assert notes(asker.take_effects()) == [StaleRefused(NODE, "boot")]
    reborn.answer(question, Done(0))
    assert len(hear(asker, sends(reborn.take_effects()))) == 1


def test_a_new_incarnation_of_the_asker_starts_afresh() -> None:
    asker, node = pair()
    asker.ask(NODE, Exit(1), now=0.0)
    (old,) = questions(hear(node, sends(asker.take_effects())))
    reborn = Session(COORDINATOR, boot_id=2, key=KEY, epoch=2, follows_epoch=False)
    meet(reborn, node)
    node.answer(old, Done(0))
    assert sends(node.take_effects()) == []
    asker.tick(now=0.25)
    assert hear(node, sends(asker.take_effects())) == []
    assert notes(node.take_effects()) == [StaleRefused(COORDINATOR, "boot")]


def test_an_answer_to_the_asker_before_its_restart_is_not_taken_for_one_to_it_now() -> None:
    asker, node = pair()
    asker.ask(NODE, Exit(1), now=0.0)
    (question,) = questions(hear(node, sends(asker.take_effects())))
    node.answer(question, Done(0))
    reborn = Session(COORDINATOR, boot_id=2, key=KEY, epoch=1, follows_epoch=False)
    assert hear(reborn, sends(node.take_effects())) == []
    assert notes(reborn.take_effects()) == [StaleRefused(NODE, "boot")]


# ---- epochs --------------------------------------------------------------------------------


def test_a_question_of_a_lower_epoch_is_refused_and_asked_again_in_the_new_one() -> None:
    client = Session("client", boot_id=1, key=KEY, epoch=1)
    node = Session(NODE, boot_id=1, key=KEY, epoch=1)
    meet(client, node)
    hear(node, sends(_greeting(Session(COORDINATOR, boot_id=2, key=KEY, epoch=2))))
    assert node.epoch == 2
    node.take_effects()

    client.ask(NODE, Exit(1), now=0.0)
    assert hear(node, sends(client.take_effects())) == []
    refusal = node.take_effects()
    assert notes(refusal) == [StaleRefused("client", "epoch")]
    assert hear(client, sends(refusal)) == [] and client.epoch == 2
    again = sends(client.take_effects())
    assert len(questions(hear(node, again))) == 1
    assert hear(client, sends(refusal)) == []
    assert sends(client.take_effects()) == [], "an echo of the refusal asks nothing again"


def _greeting(stranger: Session) -> list[Effect]:
    stranger.ask(NODE, Exit(0), now=0.0)
    return stranger.take_effects()


def test_a_newcomer_without_epoch_may_say_hello_and_an_outdated_one_may_not() -> None:
    node = Session(NODE, boot_id=1, key=KEY, epoch=5)
    hear(node, sends(_greeting(Session("client", boot_id=1, key=KEY))))
    assert notes(node.take_effects()) == []
    hear(node, sends(_greeting(Session("other", boot_id=1, key=KEY, epoch=4))))
    assert notes(node.take_effects()) == [StaleRefused("other", "epoch")]


def test_a_coordinator_that_hears_of_a_higher_epoch_ends_with_a_sentence() -> None:
    old, node = pair()
    hear(node, sends(_greeting(Session("client", boot_id=2, key=KEY, epoch=2))))
    node.take_effects()
    old.ask(NODE, Exit(1), now=0.0)
    assert hear(node, sends(old.take_effects())) == []
    (refusal,) = sends(node.take_effects())
    with pytest.raises(AssertionError, match="deposed: node0 follows epoch 2"):
        old.receive(refusal, now=0.0)


# ---- foreign bytes -------------------------------------------------------------------------


def _envelope(**changes: object) -> codec.Envelope:
    good = codec.Envelope(KEY, Kind.QUESTION, 0x58, 2, 2, COORDINATOR, NODE, 1, 1, 1)
    return replace(good, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reason", "envelope", "message"),
    [
        ("target", _envelope(target="node1"), Exit(1)),
        ("target", _envelope(source=NODE), Exit(1)),
        ("boot", _envelope(boot=0), Exit(1)),
        ("xid", _envelope(xid=0, floor=0), Exit(1)),
        ("xid", _envelope(floor=3), Exit(1)),
        ("question", _envelope(opcode=0x01), Done(0)),
    ],
)
def test_what_no_session_sends_is_foreign(
    reason: str, envelope: codec.Envelope, message: Message
) -> None:
    _, node = pair()
    with pytest.raises(WireError) as caught:
        node.receive(encode(envelope, message), now=0.0)
    assert caught.value.reason == reason
    assert node.take_effects() == []


def test_an_answer_of_the_wrong_kind_is_foreign_and_the_question_stays_open() -> None:
    asker, node = pair()
    asker.ask(NODE, Describe(), now=0.0)
    (question,) = questions(hear(node, sends(asker.take_effects())))
    status = Statuses(np.zeros(1, np.int32))
    wrong = codec.Envelope(KEY, Kind.ANSWER, 0x02, question.xid, 0, NODE, COORDINATOR, 1, 1, 1)
    with pytest.raises(WireError, match="answers Describe"):
        asker.receive(encode(wrong, status), now=0.0)
    with pytest.raises(AssertionError, match="Statuses is no answer to Describe"):
        node.answer(question, status)
    node.answer(question, NodeDescription(0, 4096, 64, 64, "uuid", 1))
    assert len(hear(asker, sends(node.take_effects()))) == 1
