"""How a command of the console program runs: one trio.run, one answer, one sentence if it fails.

Data go to stdout, sentences and progress to stderr.  Exit codes: 0 done, 1 failed, 2 usage,
3 partly done, 4 machine unreachable, 130 interrupted.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import trio

from numalab.address_space import ImageError
from numalab.locate import MachineUnreachable
from numalab.orders import IndefiniteError
from protocol.core import ConfigurationError
from protocol.nodemask import NodeListError

SCHEMA = 1

#: Told what is done now, how much of it is done, and how much there is.
Heed = Callable[[str, int, int], None]


class Exit(IntEnum):
    """The exit codes."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PARTLY = 3
    UNREACHABLE = 4
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command says: ``text`` to a person, ``document`` to a program (--json).

    code: an ``Exit``, or that of a program which was run.  sentence: for stderr, where that is not
    DONE.
    """

    text: str
    document: Mapping[str, Any] = field(default_factory=dict)
    code: int = Exit.DONE
    sentence: str = ""


class CommandFailed(Exception):
    """The command did not do what it was told: one sentence."""

    def __init__(self, sentence: str, code: int = Exit.FAILED) -> None:
        super().__init__(sentence)
        self.code = code


def execute(command: Callable[[], Awaitable[Answer]], *, as_json: bool = False) -> int:
    """Run a command to its end, or until SIGINT or SIGTERM, and say its answer."""
    try:
        answer = trio.run(_until_signalled, command)
    except BaseException as error:
        code, sentence = explain(error)
        sys.stderr.write(f"{sentence}\n")
        return code
    if as_json:
        sys.stdout.write(json.dumps({"schema": SCHEMA, **answer.document}) + "\n")
    else:
        sys.stdout.write(answer.text)
    sys.stdout.flush()
    if answer.sentence:
        sys.stderr.write(f"{answer.sentence}\n")
    return answer.code


async def _until_signalled(command: Callable[[], Awaitable[Answer]]) -> Answer:
    """A signal cancels the command, which then cleans up, wherever in the program it arrives."""
    answers: list[Answer] = []
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            answers.append(await command())
            nursery.cancel_scope.cancel()
    if not answers:
        raise CommandFailed("Interrupted.", Exit.INTERRUPTED)
    return answers[0]


def explain(error: BaseException) -> tuple[int, str]:
    """Exit code and sentence for what a user can have caused; raises anything else again."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    match error:
        case CommandFailed():
            return error.code, str(error)
        case NodeListError():
            return Exit.USAGE, _ended(str(error))
        case MachineUnreachable():
            return Exit.UNREACHABLE, _ended(str(error))
        case IndefiniteError(strerror=str(said)):
            return Exit.UNREACHABLE, _ended(said)
        case ConfigurationError():
            return Exit.FAILED, _ended(str(error))
        case ImageError():
            text = str(error)
            return Exit.FAILED, _ended(text[:1].upper() + text[1:])
        case OSError(strerror=str(said)):
            return Exit.FAILED, _ended(said)
    raise error


def _ended(text: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}."


@contextmanager
def progress_bar() -> Iterator[Heed]:
    """A bar on stderr if that is a terminal; nothing otherwise."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    # On a terminal the lines of stdout are to stand above the bar; in a file they stay its own.
    redirected = sys.stdout.isatty()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, redirect_stdout=redirected) as progress:
        bar = progress.add_task("", total=None)

        def heed(what: str, done: int, total: int) -> None:
            progress.update(bar, description=what, completed=done, total=total or None)

        yield heed
