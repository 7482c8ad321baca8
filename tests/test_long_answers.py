"""What fits into no message is said to be so: who asked would drop the answer and ask for ever."""

from __future__ import annotations

import errno

import pytest

from protocol.codec import HEAD_MAX
from protocol.core import Send
from protocol.messages import Describe, Done, NodeDescription
from protocol.schema import COORDINATOR, TEXT_MAX, Message
from protocol.session import Answer, Question, Session
from protocol.syscalls import ListTasks, TaskList
from tests.lab import Lab

KEY = b"k" * 16
NODE = "node0"


def answered(answer: Message) -> Message | None:
    """A coordinator asks a node to describe itself; what it hears if the node says this."""
    asker = Session(COORDINATOR, boot_id=1, key=KEY, epoch=1, follows_epoch=False)
    node = Session(NODE, boot_id=1, key=KEY)
    asker.ask(NODE, Describe(), now=0.0)
    while True:
        for effect in asker.take_effects():
            for heard in node.receive(effect.frames, now=0.0) if isinstance(effect, Send) else []:
                assert isinstance(heard, Question)
                node.answer(heard, answer)
        for effect in node.take_effects():
            for heard in asker.receive(effect.frames, now=0.0) if isinstance(effect, Send) else []:
                assert isinstance(heard, Answer)
                return heard.message


@pytest.mark.parametrize("length", [TEXT_MAX + 1, HEAD_MAX + 1])
def test_a_text_that_is_too_long_is_emsgsize(length: int) -> None:
    heard = answered(NodeDescription(0, 4096, 64, 64, "x" * length, 1))
    assert isinstance(heard, Done) and heard.value == -errno.EMSGSIZE


@pytest.mark.parametrize("letter", ["x", "\N{GREEK SMALL LETTER PI}"])
def test_a_text_of_the_greatest_length_is_heard(letter: str) -> None:
    told = NodeDescription(0, 4096, 64, 64, letter * (TEXT_MAX - 4096), 1)
    heard = answered(told)
    assert isinstance(heard, NodeDescription) and heard.uuid == told.uuid


def test_a_list_of_tasks_that_is_too_long_is_an_error_and_the_machine_goes_on() -> None:
    lab = Lab(nodes=1)
    pid = lab.spawn()
    task = lab.memory.tasks[pid]
    task.comm = "x" * HEAD_MAX
    assert lab.call(ListTasks()) == -errno.EMSGSIZE
    task.comm = "short"
    assert lab.ask(ListTasks(), TaskList).names == ("short",)
