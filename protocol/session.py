"""Ask and be answered exactly once over a network that loses, repeats and reorders (design 3).

The only place that knows about loss.  Questions to one peer are numbered (xid) from 1 and asked
again with a doubling interval until they are answered; the peer keeps its answers, so that a
question that comes again is answered and not executed again (``protocol/reply_cache.py`` says for
how long, and why an xid is passed over while an older one holds its slot).

Every process has a boot_id that grows with each start.  A question names the boot_id that it is
meant for, and no other incarnation executes it.  An epoch lower than the receiver's is refused.
"""

from __future__ import annotations

import errno
import heapq
import math
from collections.abc import Sequence

from protocol.codec import Envelope, Kind, WireError, decode, encode, fits
from protocol.core import Buffer, Effect, Frames, Report, Send
from protocol.messages import Done, Hello
from protocol.notes import (
    AnswerIndefinite,
    EchoSuppressed,
    MessageAsked,
    PeerRestarted,
    QuestionResent,
    StaleRefused,
)
from protocol.peer import HELLO_XID, Asked, Peer
from protocol.reply_cache import SLOTS, ReplyCache
from protocol.schema import ROWS, Message
from protocol.values import value


@value
class Question:
    """A peer asks, for the first time: execute it, then hand it to ``Session.answer``.

    ``boot`` is the boot_id of the asker.
    """

    peer: str
    xid: int
    boot: int
    message: Message


@value
class Answer:
    """A question of ours is over.

    ``status`` 0: ``message`` is the answer (the one of the table, or Done).  Otherwise there is no
    message and it is unknown whether the question was executed: -EAGAIN, its deadline passed;
    -ENODEV, the peer has a new boot_id.
    """

    ticket: int
    peer: str
    message: Message | None
    status: int


class Session:
    """All conversations of one process.  Pure: what it wants sent waits in ``take_effects``.

    name: as peers address it.  boot_id: >= 1, higher than that of any earlier process of the name.
    key: the machine's 16 secret bytes.  follows_epoch False: the coordinator, which sets the epoch
    and must end when it hears of a higher one.  resend, resend_max: seconds from the first asking
    to the second, and at most between two.  window: questions outstanding to one peer at most.
    """

    def __init__(
        self,
        name: str,
        *,
        boot_id: int,
        key: bytes,
        epoch: int = 0,
        follows_epoch: bool = True,
        resend: float = 0.25,
        resend_max: float = 2.0,
        window: int = 64,
    ) -> None:
        assert boot_id >= 1, f"{name}: boot_id {boot_id}, but 0 stands for an unknown one"
        assert 1 <= window <= SLOTS, f"{name}: a window of {window}, where 1 to {SLOTS} may be"
        assert 0 < resend <= resend_max, f"{name}: resend {resend} s, at most {resend_max} s"
        self._name = name
        self._boot = boot_id
        self._key = key
        self._epoch = epoch
        self._follows_epoch = follows_epoch
        self._resend = resend
        self._resend_max = resend_max
        self._window = window
        # Nobody is ever forgotten: a question may be on its way for longer than any lease, and to
        # an empty ReplyCache it would be new.  A client that has left costs 1 KB.
        self._peers: dict[str, Peer] = {}
        self._asked: dict[int, Asked] = {}
        self._tickets = 0
        # (due, ticket); one that no longer fits its question is passed over when it comes up.
        self._timers: list[tuple[float, int]] = []
        self._effects: list[Effect] = []
        self._now = 0.0

    @property
    def epoch(self) -> int:
        """The highest epoch heard of."""
        return self._epoch

    # ---- what a Core calls -----------------------------------------------------------------

    def ask(self, peer: str, message: Message, *, now: float, within: float | None = None) -> int:
        """Ask ``peer``; an Answer with the returned ticket comes, after ``within`` s at the latest.

        Page contents are kept by reference until then, for asking again: they must not change.
        """
        assert ROWS[type(message)].answer is not None, f"{type(message).__name__} is no question"
        assert peer != self._name, f"{peer} asks itself"
        expires = math.inf if within is None else now + within
        asked = self._new_asked(self._peer(peer), message, expires)
        asked.peer.waiting[asked.ticket] = asked
        self._now = now
        self._send_waiting(asked.peer)
        if asked.frames is None and within is not None:
            self._set_timer(asked, expires)
        return asked.ticket

    def cancel(self, ticket: int) -> None:
        """Forget a question: its answer will be ignored.  No harm if it is answered already."""
        asked = self._asked.get(ticket)
        if asked is not None:
            self._forget(asked)
            self._send_waiting(asked.peer)

    def answer(self, question: Question, message: Message) -> None:
        """Answer a question from ``receive``, once.  Dropped if the asker is gone or gave up."""
        row = ROWS[type(question.message)]
        assert type(message).__name__ in (row.answer, "Done"), (
            f"{type(message).__name__} is no answer to {row.name}"
        )
        peer = self._peers.get(question.peer)
        if peer is None or peer.boot != question.boot:
            return
        if peer.replies.awaits(question.xid):
            frames = self._encode(peer, Kind.ANSWER, question.xid, message)
            if not fits(frames, message):
                # The asker would drop it, and ask again for ever.
                too_long = Done(-errno.EMSGSIZE)
                frames = self._encode(peer, Kind.ANSWER, question.xid, too_long)
            peer.replies.settle(question.xid, None if row.idempotent else frames)
            self._effects.append(Send(peer.name, frames))

    def receive(self, frames: Sequence[Buffer], *, now: float) -> list[Question | Answer]:
        """Take one message; return what is to be executed and which of our questions are over.

        Raises WireError for foreign bytes, with nothing changed, and AssertionError if this is a
        coordinator and another one has taken over.
        """
        envelope, message = decode(frames, self._key)
        self._check(envelope, message)
        self._now = now
        peer = self._peer(envelope.source)
        if envelope.boot < peer.boot:
            self._effects.append(Report(StaleRefused(peer.name, "boot")))
            return []
        self._heed_epoch(envelope)
        ended: list[Question | Answer] = []
        if envelope.boot > peer.boot:
            ended.extend(self._meet(peer, envelope.boot))
        if envelope.kind == Kind.QUESTION:
            assert message is not None
            ended.extend(self._questioned(peer, envelope, message))
        elif envelope.target_boot != self._boot:
            self._effects.append(Report(StaleRefused(peer.name, "boot")))
        elif envelope.kind == Kind.ANSWER:
            ended.extend(self._answered(peer, envelope.xid, message))
        else:
            self._refused(peer, envelope.xid)
        return ended

    def tick(self, *, now: float) -> list[Answer]:
        """Ask again what is due, and end what is past its deadline."""
        self._now = now
        answers: list[Answer] = []
        while self._timers and self._timers[0][0] <= now:
            due, ticket = heapq.heappop(self._timers)
            asked = self._asked.get(ticket)
            if asked is None or asked.due != due:
                continue
            if asked.expires <= now:
                self._forget(asked)
                answers.append(Answer(ticket, asked.peer.name, None, -errno.EAGAIN))
                self._effects.append(Report(AnswerIndefinite(asked.peer.name, -errno.EAGAIN)))
                self._send_waiting(asked.peer)
            else:
                asked.interval = min(2 * asked.interval, self._resend_max)
                self._send_again(asked)
        return answers

    def next_deadline(self) -> float | None:
        """When to call ``tick`` at the latest; None while nothing is asked."""
        timers = self._timers
        while timers:
            due, ticket = timers[0]
            asked = self._asked.get(ticket)
            if asked is not None and asked.due == due:
                return due
            heapq.heappop(timers)
        return None

    def take_effects(self) -> list[Effect]:
        """Sends and Reports since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    # ---- our questions ---------------------------------------------------------------------

    def _new_asked(self, peer: Peer, message: Message, expires: float) -> Asked:
        self._tickets += 1
        asked = Asked(self._tickets, peer, message, expires, self._resend)
        self._asked[asked.ticket] = asked
        return asked

    def _send_waiting(self, peer: Peer) -> None:
        """Send what the window admits; to a stranger, Hello first."""
        if peer.boot == 0:
            if peer.waiting and peer.hello is None:
                peer.hello = self._new_asked(peer, Hello(), math.inf)
                self._send_first(peer.hello)
            return
        while peer.waiting and len(peer.outstanding) < self._window:
            self._send_first(peer.number_next())

    def _send_first(self, asked: Asked) -> None:
        opcode = ROWS[type(asked.message)].opcode
        self._effects.append(Report(MessageAsked(asked.peer.name, opcode)))
        self._send(asked)

    def _send_again(self, asked: Asked) -> None:
        assert asked.frames is not None, f"ticket {asked.ticket} asked again before the first time"
        opcode = ROWS[type(asked.message)].opcode
        self._effects.append(Report(QuestionResent(asked.peer.name, opcode)))
        self._send(asked)

    def _send(self, asked: Asked) -> None:
        if asked.frames is None or asked.epoch != self._epoch:
            asked.frames = self._encode(asked.peer, Kind.QUESTION, asked.xid, asked.message)
            asked.epoch = self._epoch
        self._effects.append(Send(asked.peer.name, asked.frames))
        self._set_timer(asked, min(self._now + asked.interval, asked.expires))

    def _set_timer(self, asked: Asked, due: float) -> None:
        asked.due = due
        heapq.heappush(self._timers, (due, asked.ticket))

    def _forget(self, asked: Asked) -> None:
        peer = asked.peer
        del self._asked[asked.ticket]
        peer.drop(asked)
        # Nobody is left who wants to know: stop calling.
        if peer.hello is not None and not peer.waiting:
            self._end_hello(peer)

    def _end_hello(self, peer: Peer) -> None:
        if peer.hello is not None:
            del self._asked[peer.hello.ticket]
            peer.hello = None

    def _meet(self, peer: Peer, boot: int) -> list[Answer]:
        """A first or a new incarnation: what the old one was asked is over, and it asks no more."""
        restarted, peer.boot = peer.boot != 0, boot
        answers: list[Answer] = []
        self._end_hello(peer)
        if restarted:
            self._effects.append(Report(PeerRestarted(peer.name)))
            for asked in list(peer.outstanding.values()):
                self._forget(asked)
                answers.append(Answer(asked.ticket, peer.name, None, -errno.ENODEV))
                self._effects.append(Report(AnswerIndefinite(peer.name, -errno.ENODEV)))
            peer.replies = ReplyCache()
        self._send_waiting(peer)
        return answers

    def _answered(self, peer: Peer, xid: int, message: Message | None) -> list[Answer]:
        asked = peer.find(xid)
        if asked is None:
            return []
        self._forget(asked)
        self._send_waiting(peer)
        return [Answer(asked.ticket, peer.name, message, 0)]

    def _refused(self, peer: Peer, xid: int) -> None:
        """Ask again if the epoch was the reason: for another boot_id, ``_meet`` has ended it."""
        asked = peer.find(xid)
        if asked is not None and asked.epoch < self._epoch:
            self._send_again(asked)

    # ---- questions of others ---------------------------------------------------------------

    def _questioned(self, peer: Peer, envelope: Envelope, message: Message) -> list[Question]:
        xid = envelope.xid
        hello = type(message) is Hello
        if not hello and envelope.target_boot != self._boot:
            return self._refuse(peer, envelope, "boot")
        if envelope.epoch < self._epoch and not (hello and envelope.epoch == 0):
            return self._refuse(peer, envelope, "epoch")
        if hello:
            frames = self._encode(peer, Kind.ANSWER, xid, Done(0))
            self._effects.append(Send(peer.name, frames))
            return []
        if peer.replies.admit(xid, envelope.floor):
            return [Question(peer.name, xid, peer.boot, message)]
        self._effects.append(Report(EchoSuppressed(peer.name)))
        kept = peer.replies.kept(xid)
        if kept is not None:
            self._effects.append(Send(peer.name, kept))
        return []

    def _refuse(self, peer: Peer, envelope: Envelope, reason: str) -> list[Question]:
        self._effects.append(Report(StaleRefused(peer.name, reason)))
        frames = self._encode(peer, Kind.REFUSAL, envelope.xid, None)
        self._effects.append(Send(peer.name, frames))
        return []

    # ---- both ------------------------------------------------------------------------------

    def _peer(self, name: str) -> Peer:
        peer = self._peers.get(name)
        if peer is None:
            peer = self._peers[name] = Peer(name)
        return peer

    def _encode(self, peer: Peer, kind: Kind, xid: int, message: Message | None) -> Frames:
        opcode = ROWS[type(message)].opcode if message is not None else 0
        floor = peer.floor() if kind == Kind.QUESTION and xid != HELLO_XID else 0
        boot, epoch = self._boot, self._epoch
        return encode(
            Envelope(
                self._key, kind, opcode, xid, floor, self._name, peer.name, boot, peer.boot, epoch
            ),
            message,
        )

    def _heed_epoch(self, envelope: Envelope) -> None:
        if envelope.epoch > self._epoch:
            if not self._follows_epoch:
                raise AssertionError(
                    f"{self._name} of epoch {self._epoch} is deposed: {envelope.source} follows "
                    f"epoch {envelope.epoch}, so another coordinator has taken over"
                )
            self._epoch = envelope.epoch

    def _check(self, envelope: Envelope, message: Message | None) -> None:
        """Raise WireError for what no session of ours sends.  Before anything is changed."""
        if envelope.target != self._name or envelope.source == self._name:
            raise WireError("target", f"from {envelope.source} to {envelope.target}")
        if envelope.boot == 0:
            raise WireError("boot", f"{envelope.source} has no boot_id")
        if envelope.kind == Kind.QUESTION:
            if type(message) is Hello:
                return
            if message is None or ROWS[type(message)].answer is None:
                raise WireError("question", f"{envelope.opcode:#x} asks nothing")
            if not 1 <= envelope.floor <= envelope.xid:
                raise WireError("xid", f"{envelope.xid} with a floor of {envelope.floor}")
        elif envelope.kind == Kind.ANSWER and envelope.target_boot == self._boot:
            peer = self._peers.get(envelope.source)
            asked = peer.find(envelope.xid) if peer is not None else None
            if asked is not None and message is not None:
                row = ROWS[type(asked.message)]
                if type(message).__name__ not in (row.answer, "Done"):
                    raise WireError("answer", f"{envelope.opcode:#x} answers {row.name}")

    def validate(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        timers = frozenset(self._timers)
        held = 0
        for peer in self._peers.values():
            held += peer.validate(self._window)
        assert held == len(self._asked), f"{self._name}: {len(self._asked)} asked, {held} held"
        for ticket, asked in self._asked.items():
            assert asked.ticket == ticket and ticket <= self._tickets
            armed = (asked.due, ticket) in timers
            idle = asked.frames is None and asked.expires == math.inf
            assert armed or idle, f"{self._name}: ticket {ticket} has no timer"
