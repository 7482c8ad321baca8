"""Messages on their way as a judge of faults sees them: letters, made of frames."""

from __future__ import annotations

from collections import OrderedDict

from protocol.codec import Kind, peek
from protocol.core import Frames
from protocol.faults import Letter, Side

#: So many questions are remembered, for the answers to them.
QUESTIONS_MAX = 4096


class Letters:
    """What was asked is remembered, for an answer says only the number of its question."""

    def __init__(self) -> None:
        self._asked: OrderedDict[tuple[str, str, int], int] = OrderedDict()

    def read(self, source: str, target: str, frames: Frames, now: float, *, opens: bool) -> Letter:
        """The letter of these frames; its message is known only if it is opened."""
        size = sum(memoryview(frame).nbytes for frame in frames)
        if not opens:
            return Letter(source, target, -1, now, size=size)
        try:
            kind, opcode, xid, *_ = peek(frames[0])
        except ValueError:
            return Letter(source, target, -1, now, size=size)
        if kind == Kind.QUESTION:
            self._asked[source, target, xid] = opcode
            if len(self._asked) > QUESTIONS_MAX:
                self._asked.popitem(last=False)
            return Letter(source, target, opcode, now, Side.QUESTION, opcode, size)
        asked = self._asked.get((target, source, xid), -1)
        return Letter(source, target, opcode, now, Side.ANSWER, asked, size)
