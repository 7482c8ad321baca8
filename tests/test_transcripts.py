"""Golden transcripts: what is asked of whom, in which order, for small scripts.

Each file in ``tests/transcripts`` has prose at the top, then commands (``> migrate 1 0 1``) and
after each the messages that it caused.  ``NUMALAB_REWRITE=1`` writes them anew: commit a changed
one only if you understand it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from protocol.codec import Envelope, Kind
from protocol.core import Frames
from protocol.messages import Hello
from protocol.schema import ROWS, Message
from protocol.syscalls import Munmap
from tests.lab import PAGE, Lab

SCRIPTS = sorted(Path(__file__).with_name("transcripts").glob("*.txt"))


class Scribe(Lab):
    """A lab that writes down what is delivered: questions, and answers that are not plain."""

    lines: list[str]

    def _deliver(
        self, envelope: Envelope, message: Message | None, target: str, frames: Frames
    ) -> None:
        if message is not None and not isinstance(message, Hello):
            arrow = "->" if envelope.kind == Kind.QUESTION else "=>"
            if hasattr(self, "lines"):
                self.lines.append(f"{envelope.source} {arrow} {target}: {told(message)}")
        super()._deliver(envelope, message, target, frames)


def told(message: Message) -> str:
    """The name, what is said in plain numbers, and how many rows it has."""
    row = ROWS[type(message)]
    words = [row.name]
    for name, _ in row.scalars:
        value = getattr(message, name)
        if isinstance(value, bytes):
            value = value.rstrip(bytes(1)).hex()
        if value not in ("", (), 0) or name == "value":
            words.append(f"{name}={value}")
    if row.arrays:
        rows = getattr(message, row.arrays[0][0])
        words.append(f"{rows.size} rows")
    statuses = getattr(message, "status", None)
    if statuses is not None and (statuses < 0).any():
        words.append("status " + " ".join(str(status) for status in statuses))
    return " ".join(words)


class Script:
    """The commands of a transcript; each is a method named after it."""

    def __init__(self) -> None:
        self.lab = Scribe(nodes=3, frames=8, chunk_pages=4)
        self.lab.lines = []
        self.areas: dict[int, int] = {}

    def run(self, command: str) -> list[str]:
        self.lab.lines = []
        verb, *words = command.split()
        result = getattr(self, verb)(*words)
        self.lab.run()
        return [*self.lab.lines, f"{verb}: {result}"] if result is not None else self.lab.lines

    def spawn(self, cpu: str) -> Any:
        return self.lab.spawn(cpu=int(cpu))

    def touch(self, pid: str, pages: str) -> None:
        self.areas[int(pid)] = self.lab.mapped(int(pid), int(pages), cpu=0)

    def write(self, pid: str, page: str) -> Any:
        child = int(pid)
        where = self.lab.fault(child, self.areas[child] + int(page))
        return [int(status) for status in where.status]

    def fork(self, pid: str) -> Any:
        child = self.lab.fork(int(pid))
        self.areas[child] = self.areas[int(pid)]
        return child

    def munmap(self, pid: str, pages: str) -> Any:
        start = self.areas[int(pid)] * PAGE
        return self.lab.call(Munmap(int(pid), start, int(pages) * PAGE))

    def migrate(self, pid: str, source: str, target: str) -> Any:
        return self.lab.migrate(int(pid), int(source), int(target))

    def pin(self, pid: str, page: str) -> None:
        where = self.lab.fault(int(pid), self.areas[int(pid)] + int(page), access=0)
        self.lab.hold_pages(where, pinned=1)

    def where(self, pid: str, pages: str) -> Any:
        return self.lab.where(int(pid), self.areas[int(pid)], int(pages))


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_transcript(path: Path) -> None:
    # K 1.25.
    script, written = Script(), []
    for line in path.read_text().splitlines():
        if line.startswith(">"):
            written += [line, *(f"  {each}" for each in script.run(line[1:].strip()))]
        elif not line.startswith("  "):
            written.append(line)
    script.lab.validate()
    text = "\n".join(written) + "\n"
    if os.environ.get("NUMALAB_REWRITE"):
        path.write_text(text)
    assert path.read_text() == text


def test_there_are_transcripts() -> None:
    assert len(SCRIPTS) >= 5
