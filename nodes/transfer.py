"""A copy of pages to another node that is under way."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.bulk import Sending
from protocol.messages import CopyPages
from protocol.session import Question


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """A CopyPages question that is not answered yet."""

    question: Question
    message: CopyPages
    sending: Sending
