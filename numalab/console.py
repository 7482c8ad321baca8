"""How a command of the console program runs: one trio.run, one answer, one sentence if it fails.

Data go to stdout, sentences and progress to stderr.  Exit codes: 0 done, 1 failed, 2 usage,
3 partly done, 4 machine unreachable, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
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


class OutputFailed(Exception):
    """What stdout was given does not arrive: one sentence, or nothing if nobody reads it."""


def execute(command: Callable[[], Awaitable[Answer]], *, as_json: bool = False) -> int:
    """Run a command to its end, or until SIGINT or SIGTERM, and say its answer."""
    return conclude(lambda: trio.run(_until_signalled, command), as_json=as_json)


def conclude(command: Callable[[], Answer], *, as_json: bool = False) -> int:
    """The same for a command that does not wait for anything."""
    try:
        answer = command()
        say(_json_text(answer.document) if as_json else answer.text)
    except BaseException as error:
        return fail(*explain(error), as_json=as_json)
    if answer.sentence:
        sys.stderr.write(f"{answer.sentence}\n")
    return answer.code


def fail(code: int, sentence: str, *, as_json: bool = False) -> int:
    """Say why the command failed, to a person and to a program; gives the code."""
    if sentence:
        sys.stderr.write(f"{sentence}\n")
        if as_json:
            # There is nothing more to say about a stdout that takes nothing.
            with suppress(OutputFailed):
                say(_json_text({"error": sentence}))
    return code


def say(text: str) -> None:
    """Write to stdout, now.  Raises OutputFailed."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        discard_output()
        gone = isinstance(error, BrokenPipeError)
        raise OutputFailed("" if gone else f"stdout takes no data: {error.strerror}.") from None


def discard_output() -> None:
    """Whatever is not written yet need not be tried again at the end of the program."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _json_text(document: Mapping[str, Any]) -> str:
    return json.dumps({"schema": SCHEMA, **document}) + "\n"


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
        case KeyboardInterrupt():
            return Exit.INTERRUPTED, "Interrupted."
        case OutputFailed():
            return Exit.FAILED, str(error)
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
