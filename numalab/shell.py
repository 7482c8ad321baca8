"""A command that sees the machine where this host's nodes are: a user and a mount namespace.

Nothing of the host is changed, and no right is needed but that of making a namespace.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import trio

from numalab.console import CommandFailed
from numalab.machine import Machine
from numalab.orders import IndefiniteError
from numalab.sysfs import CPU, NODE, PROC
from numalab.sysfs_files import Tree, describe, refresh

#: As shells have it: there is no such command, and it was ended by a signal (added to that).
NOT_FOUND = 127
SIGNALLED = 128
#: The nodes have to be shown; a host that keeps its cpus in sight is good enough.
_MOUNT = (
    f'mount --bind "$1/{NODE}" /{NODE} && {{ mount --bind "$1/{CPU}" /{CPU} 2>/dev/null || true; }}'
)
_RUN = f'{_MOUNT} && shift && exec "$@"'
#: The host's /proc stays to be had below a directory of its own, for links that lead there.
HOST_PROC = "proc-of-the-host"
_MOUNT_PROC = f'mount --rbind /proc "$1/{HOST_PROC}" && mount --bind "$1/{PROC}" /proc'
_RUN_WITH_PROC = f'{_MOUNT} && {_MOUNT_PROC} && shift && exec "$@"'
#: What programs look for in /proc beside the tasks.
_LINKS = ("self", "thread-self", "mounts", "filesystems", "sys", "stat", "uptime", "loadavg")


async def run(
    machine: Machine,
    directory: Path,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    proc: bool = False,
) -> tuple[int, str]:
    """Run ``command`` with the machine's files, kept in ``directory``, in place of the host's.

    environment: added to the one of this process.  proc: /proc shows the tasks of the machine, and
    none of the host but the command itself.  Gives the command's exit code, and a sentence
    if the files were not kept fresh to its end.  The terminal is the command's, and so is ^C.
    Raises CommandFailed if it cannot be run so.
    """
    if shutil.which(command[0]) is None:
        raise CommandFailed(f"There is no command {command[0]}: give one, or its path.", NOT_FOUND)
    with closing(Tree(directory)) as files:
        files.write(await describe(machine))
        if proc:
            _link_to_host(directory)
        await _try(directory)
        stale: list[str] = []

        async def keep_fresh() -> None:
            try:
                await refresh(machine, files)
            except IndefiniteError:
                stale.append(
                    f"The machine stopped answering while {command[0]} ran: what it read after "
                    "that is out of date."
                )
            except CommandFailed as error:
                stale.append(str(error))

        with trio.open_signal_receiver(signal.SIGINT) as interrupts:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_fresh)
                nursery.start_soon(_leave_to_command, interrupts)
                ended = await trio.run_process(
                    _inside(_RUN_WITH_PROC if proc else _RUN, directory, *command),
                    stdin=None,
                    check=False,
                    env={**os.environ, **environment, **_for_hwloc(directory)},
                )
                nursery.cancel_scope.cancel()
    code = ended.returncode
    return (code if code >= 0 else SIGNALLED - code), "".join(stale)


def _link_to_host(directory: Path) -> None:
    (directory / HOST_PROC).mkdir()
    for name in _LINKS:
        (directory / PROC / name).symlink_to(directory / HOST_PROC / name)


async def _leave_to_command(interrupts: AsyncIterator[int]) -> None:
    """A terminal interrupts the command too, and it is for that to end or to go on."""
    async for _ in interrupts:
        continue


def _inside(script: str, directory: Path, *arguments: str) -> list[str]:
    return ["unshare", "-rm", "sh", "-c", script, "sh", str(directory), *arguments]


def _for_hwloc(directory: Path) -> dict[str, str]:
    """It reads below a root, and so has no need of mounts."""
    return {"HWLOC_FSROOT": str(directory), "HWLOC_COMPONENTS": "linux,stop"}


async def _try(directory: Path) -> None:
    """Are the mounts allowed?  So that a failure of theirs is not taken for one of the command."""
    try:
        tried = await trio.run_process(
            _inside(_MOUNT, directory),
            check=False,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
        )
        said = tried.stdout.decode(errors="replace").strip()
        failed = tried.returncode != 0
    except OSError as error:
        said, failed = f"unshare: {error.strerror}", True
    if failed:
        reason = said.splitlines()[0].rstrip(".") if said else "unshare failed"
        raise CommandFailed(
            f"The machine cannot be shown in place of this host's nodes ({reason}): allow user "
            "namespaces, or write the files with 'numalab sysfs' for tools that take a directory."
        )
