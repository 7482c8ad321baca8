"""What a person reads when a seed fails: the story of one page, and who said what to whom at last.

Both are made from the packets that the world kept, decoded by the shipped codec.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from numalab.simulation.happening import Packet
from numalab.simulation.world import World
from protocol.codec import Envelope, Kind, WireError, decode
from protocol.messages import CopyPages, NewPageFrames, Statuses
from protocol.schema import Message
from protocol.status import describe
from protocol.syscalls import Fault, Translations

#: (nid, pfn, generation): a frame while one page has it.
Frame = tuple[int, int, int]

LANE = 14


@dataclass(frozen=True, slots=True)
class Said:
    """A packet and what it says; ``question``: what an answer answers, if that is known."""

    packet: Packet
    envelope: Envelope
    message: Message
    question: Message | None


def conversation(world: World) -> Iterator[Said]:
    """All that was sent and can be read, in the order of sending."""
    questions: dict[tuple[str, str, int, int], Message] = {}
    for packet in world.packets:
        try:
            envelope, message = decode(packet.frames, world.key)
        except WireError:
            continue
        if message is None:
            continue
        question = None
        if envelope.kind == Kind.QUESTION:
            questions[packet.source, packet.target, envelope.boot, envelope.xid] = message
        else:
            asker = packet.target, packet.source, envelope.target_boot, envelope.xid
            question = questions.get(asker)
        yield Said(packet, envelope, message, question)


# ---- the story of a page -------------------------------------------------------------------


def story(world: World, pid: int, address: int, page_size: int) -> str:
    """The frames that a page ever had and every message that named one of them, oldest first.

    ``address`` is in bytes.  A line for each message: when (seconds), who to whom, what, which
    frame, and the status in an answer.
    """
    page = address // page_size
    said = list(conversation(world))
    mine = _frames_of(said, pid, page)
    title = f"page {page * page_size:#x} of task {pid}"
    if not mine:
        return f"{title}: no message named a frame of it"
    lines = [f"{title} had {', '.join(_name(frame) for frame in sorted(mine))}"]
    for line in said:
        told = list(_rows_about(line, mine))
        told += [_translation(line, row) for row in _translated(line, pid, page)]
        if told:
            lines.append(f"{_when(line.packet)}  {type(line.message).__name__} {'; '.join(told)}")
    return "\n".join(lines)


def _name(frame: Frame) -> str:
    return f"node {frame[0]} frame {frame[1]} generation {frame[2]}"


def _when(packet: Packet) -> str:
    fate = "" if packet.fate == "arrived" else f" ({packet.fate})"
    return f"{packet.sent:12.6f}  {packet.source} -> {packet.target}{fate}"


def _nid(name: str) -> int:
    """The node id of ``node3``; -1 for anybody else."""
    return int(name[4:]) if name.startswith("node") else -1


def _frames_of(said: list[Said], pid: int, page: int) -> set[Frame]:
    """From what the task was told, along copies and new generations, forwards and backwards."""
    links: list[tuple[Frame, Frame]] = []
    mine: set[Frame] = set()
    for line in said:
        links.extend(_links(line))
        for row in _translated(line, pid, page):
            answer = line.message
            assert isinstance(answer, Translations)
            if answer.status[row] == 0 and answer.nid[row] >= 0:
                pfn, generation = int(answer.pfn[row]), int(answer.generation[row])
                mine.add((int(answer.nid[row]), pfn, generation))
    size = -1
    while size != len(mine):
        size = len(mine)
        for one, other in links:
            if one in mine or other in mine:
                mine.update((one, other))
    return mine


def _links(line: Said) -> Iterator[tuple[Frame, Frame]]:
    """Frames that follow one another as the home of one page; a copy for a writer is none."""
    message, nid = line.message, _nid(line.packet.target)
    if isinstance(message, CopyPages):
        if message.lock:
            old = zip(message.pfn.tolist(), message.generation.tolist(), strict=True)
            new = zip(message.target_pfn.tolist(), message.target_generation.tolist(), strict=True)
            for source, target in zip(old, new, strict=True):
                yield (nid, *source), (message.target, *target)
        return
    after = getattr(message, "new_generation", None)
    if after is not None:
        pfn, before = getattr(message, "pfn", after), getattr(message, "generation", after)
        for row in range(after.size):
            frame = int(pfn[row])
            yield (nid, frame, int(before[row])), (nid, frame, int(after[row]))


def _translated(line: Said, pid: int, page: int) -> list[int]:
    """Rows of an answer to a fault that are about this page."""
    if isinstance(line.message, Translations) and isinstance(line.question, Fault):
        if line.question.pid == pid:
            rows: list[int] = np.flatnonzero(line.question.page == page).tolist()
            return rows
    return []


def _translation(line: Said, row: int) -> str:
    answer = line.message
    assert isinstance(answer, Translations)
    if answer.status[row] < 0:
        return describe(int(answer.status[row]))
    if answer.nid[row] < 0:
        return "the zero page"
    frame = int(answer.nid[row]), int(answer.pfn[row]), int(answer.generation[row])
    return f"{_name(frame)}{' writable' if answer.writable[row] else ''}"


def _rows_about(line: Said, mine: set[Frame]) -> Iterator[str]:
    """What a message between the machine and a node says about these frames."""
    message, packet = line.message, line.packet
    named = line.question if isinstance(message, Statuses) else message
    nid = _nid(packet.source if line.envelope.kind == Kind.ANSWER else packet.target)
    pfn = getattr(named, "pfn", None)
    generation = getattr(named, "generation", None)
    if pfn is None or generation is None or nid < 0:
        return
    status = getattr(message, "status", None)
    for row in range(pfn.size):
        frame = nid, int(pfn[row]), int(generation[row])
        if isinstance(message, NewPageFrames) and message.status[row]:
            continue
        if isinstance(named, CopyPages):
            target = int(named.target_pfn[row]), int(named.target_generation[row])
            to = (named.target, *target)
            if frame in mine or to in mine:
                yield f"{_name(frame)} to {_name(to)}{_status(status, row)}"
        elif frame in mine:
            yield f"{_name(frame)}{_status(status, row)}"


def _status(status: object, row: int) -> str:
    if not isinstance(status, np.ndarray) or row >= status.size:
        return ""
    return f": {describe(int(status[row])) if status[row] < 0 else 'OK'}"


# ---- the diagram ---------------------------------------------------------------------------


def diagram(world: World, last: int = 40) -> str:
    """A line for each of the last messages, a column for each process; time goes down."""
    names = list(world.processes)
    lines = [" " * 14 + "".join(f"{name:<{LANE}}" for name in names)]
    for packet in world.packets[-last:]:
        lanes = _arrow(names, packet)
        lines.append(f"{packet.sent:12.6f}  {lanes}{_label(world, packet)}")
    return "\n".join(lines)


def _arrow(names: list[str], packet: Packet) -> str:
    lanes = [*"".join(f"{'|':<{LANE}}" for _ in names)]
    if packet.source in names and packet.target in names:
        start, end = names.index(packet.source) * LANE, names.index(packet.target) * LANE
        for at in range(min(start, end) + 1, max(start, end)):
            lanes[at] = "-"
        lanes[start] = "o"
        lanes[end - 1 if end > start else end + 1] = ">" if end > start else "<"
        if not packet.arrived:
            lanes[(start + end) // 2] = "x"
    return "".join(lanes)


def _label(world: World, packet: Packet) -> str:
    try:
        envelope, message = decode(packet.frames, world.key)
    except WireError as error:
        return f"unreadable ({error.reason})"
    what = type(message).__name__ if message is not None else "refusal"
    after = ", ".join(f"+{(time - packet.sent) * 1e3:.2f} ms" for time in packet.arrived)
    return f"{what} {envelope.xid} {after or packet.fate}"
