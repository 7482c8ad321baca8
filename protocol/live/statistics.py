"""What a transport counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts since the transport was opened, in messages.

    lost: by reason.  ``full``: the peer's queue is full, or there is no connection (libzmq does
    not tell them apart); ``unknown``: no address and no connection; ``closed``: after the end.
    oversized: received and dropped, because of more than FRAMES_MAX frames.
    local: of those sent, how many went past TCP (protocol/live/local.py).
    refused: connections and messages of who may not be heard, by reason (protocol/live/guard.py).
    """

    sent: int
    lost: Mapping[str, int]
    received: int
    oversized: int
    refused: Mapping[str, int]
    local: int = 0
