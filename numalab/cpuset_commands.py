"""The commands about cpusets, as functions that know nothing of a command line.

Each gives an ``Answer``, or raises what ``console.explain`` makes a sentence of.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from numalab.commands import Place
from numalab.console import Answer, CommandFailed
from numalab.cpusets import Cpusets
from numalab.orders import IndefiniteError

LIST = "'numalab cpuset list' shows those that there are"
FILES = ("cpus", "mems", "cpu_exclusive", "mem_exclusive", "memory_migrate", "tasks")


@contextmanager
def _about(path: str, reasons: dict[int, str]) -> Iterator[None]:
    """Say what an errno of a call about this cpuset means."""
    try:
        yield
    except IndefiniteError:
        raise
    except OSError as error:
        reason = reasons.get(error.errno or 0)
        sentence = reason or f"the machine refuses that ({error.strerror})"
        raise CommandFailed(f"Cpuset {path}: {sentence}.") from None


async def make(place: Place, path: str) -> Answer:
    """mkdir."""
    reasons = {
        errno.EEXIST: "it is there already, or it has the name of a file: give another path",
        errno.ENOENT: "its parent is not there: make that first",
        errno.EINVAL: "that is no path: write one like /batch/night",
        errno.ENAMETOOLONG: "its name is too long: give one of at most 255 bytes",
    }
    async with place.connected() as machine:
        with _about(path, reasons):
            await machine.cpusets.mkdir(path)
    return Answer("", {"path": path})


async def remove(place: Place, path: str) -> Answer:
    """rmdir."""
    reasons = {
        errno.ENOENT: f"it is not there: {LIST}",
        errno.EBUSY: "it has tasks or children: attach its tasks to another, remove its children "
        "first",
    }
    async with place.connected() as machine:
        with _about(path, reasons):
            await machine.cpusets.rmdir(path)
    return Answer("", {"path": path})


async def get(place: Place, path: str, file: str | None) -> Answer:
    """One file as it is, or all of them, a line each."""
    reasons = {errno.ENOENT: f"it is not there, or has no such file: {LIST}"}
    async with place.connected() as machine:
        with _about(path, reasons):
            if file is not None:
                text = await machine.cpusets.read(path, file)
                return Answer(text, {"path": path, file: text.removesuffix("\n")})
            texts = await _texts(machine.cpusets, path)
    lines = [f"{name}: {text}".rstrip() for name, text in texts.items()]
    return Answer("\n".join(lines) + "\n", {"path": path, **texts})


async def _texts(cpusets: Cpusets, path: str) -> dict[str, str]:
    return {name: " ".join((await cpusets.read(path, name)).split()) for name in FILES}


async def put(place: Place, path: str, file: str, text: str) -> Answer:
    """Write a file; the pages that this moves have moved when it ends."""
    reasons = {
        errno.ENOENT: f"it is not there, or has no file {file}: {LIST}",
        errno.EACCES: f"it may have only what its parent has, and the top what the machine has: "
        f"change {file} of the parent first",
        errno.EBUSY: "a cpuset below it has what it would lose: change that one first",
        errno.EINVAL: f"{file} does not take '{text}', or a sibling has some of that exclusively: "
        "write a list like 0-2,4, or 0 or 1 for a flag",
        errno.ERANGE: f"a number in '{text}' is too large: write smaller ones",
        errno.ENOSPC: "it needs at least one cpu and one node: write both cpus and mems",
        errno.ESRCH: f"there is no task {text}: 'numalab ps' lists those that there are",
        errno.EIO: f"'{text}' is no pid: write a whole number",
        errno.E2BIG: "the text is too long: write ranges",
    }
    async with place.connected() as machine:
        with _about(path, reasons):
            await machine.cpusets.write(path, file, text)
            written = (await machine.cpusets.read(path, file)).split()
    return Answer("", {"path": path, file: " ".join(written)})


async def listing(place: Place) -> Answer:
    """Every cpuset, parents first."""
    async with place.connected() as machine:
        found = {path: await _texts(machine.cpusets, path) for path in await machine.cpusets.walk()}
    rows = [("CPUSET", "CPUS", "MEMS", "MIGRATE", "EXCLUSIVE", "TASKS")]
    rows += [
        (
            path,
            texts["cpus"] or "-",
            texts["mems"] or "-",
            texts["memory_migrate"],
            _exclusive(texts),
            str(len(texts["tasks"].split())),
        )
        for path, texts in found.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        " ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    document = {"cpusets": [{"path": path, **texts} for path, texts in found.items()]}
    return Answer("\n".join(lines) + "\n", document)


def _exclusive(texts: dict[str, str]) -> str:
    named = [name for name in ("cpu", "mem") if texts[f"{name}_exclusive"] == "1"]
    return ",".join(named) or "-"
