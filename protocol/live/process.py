"""What the process of a node and that of the coordinator have in common: how they start and end.

A process is given the path of a JSON file.  It ends cleanly on SIGTERM, SIGINT and SIGHUP with exit
code 0; with exit code 1 and a sentence on stderr if it cannot start as it was told to, or cannot
keep its journal.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from protocol.codec import KEY_BYTES
from protocol.core import ConfigurationError, JournalError
from protocol.live.buffers import Mapped
from protocol.live.clock import HostClock
from protocol.live.exposition import Exposition
from protocol.live.interference import Interference
from protocol.live.keys import Keys, open_keys
from protocol.live.landing import Grounds
from protocol.live.local import Local

_PR_SET_PDEATHSIG = 1
_SWITCH_SECONDS = 2e-4
#: From one touch of the health file to the next.
HEALTH_SECONDS = 1.0
#: mallopt(3): from how many bytes on malloc maps memory anew for each request, and from how many
#: free bytes at the end of a heap it gives them back.
_M_MMAP_THRESHOLD = -3
_M_TRIM_THRESHOLD = -1
#: Unlike SIGTERM, which somebody sends who will clean up.
_PARENT_DIED = signal.SIGHUP


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every process is told.

    bind: where questions are taken, as ``tcp://127.0.0.1:5000``.  peers: address of each process
    that this one asks, by name.  key: 32 hexadecimal digits.  nids: the nodes of the machine.
    metrics: ``host:port`` of the metrics page, or empty.  parent: pid of the process that this one
    must not outlive, 0 if it may.  faults: path of a file of faults (protocol/live/interference.py)
    that the process shall suffer, or empty.  health: path of a file that is there, and touched
    every second, while the process serves, or empty.  secret_key, public_keys: paths of this
    process's secret key and of the directory of public ones (protocol/live/keys.py), or both empty:
    then nothing is encrypted, and nobody has to prove who it is.  local: talk to processes of this
    host past TCP, unless there are keys.
    """

    bind: str
    peers: dict[str, str]
    key: str
    nids: tuple[int, ...]
    metrics: str = ""
    parent: int = 0
    faults: str = ""
    health: str = ""
    secret_key: str = ""
    public_keys: str = ""
    local: bool = True

    def interference(self, name: str) -> Interference | None:
        """The faults of the process ``name``, None: none.  Raises ConfigurationError."""
        return Interference(name, self.faults) if self.faults else None

    def keys(self, name: str) -> Keys | None:
        """The keys of the process ``name``, None: no CURVE.  Raises ConfigurationError."""
        if bool(self.secret_key) != bool(self.public_keys):
            raise ConfigurationError(
                "The configuration has one of secret_key and public_keys: give both, or none."
            )
        return open_keys(name, self.secret_key, self.public_keys) if self.secret_key else None

    def ways(
        self, name: str, mapped: Sequence[Mapped] = (), grounds: Grounds | None = None
    ) -> Local | None:
        """The ways of the process ``name`` past TCP, None: none.  mapped, grounds: see Local."""
        return Local(name, mapped, grounds) if self.local and not self.secret_key else None

    @property
    def secret(self) -> bytes:
        """The key.  Raises ConfigurationError."""
        try:
            secret = bytes.fromhex(self.key)
        except ValueError:
            secret = b""
        if len(secret) != KEY_BYTES:
            raise ConfigurationError(
                f"The key of the configuration is malformed: write {2 * KEY_BYTES} hexadecimal "
                "digits."
            )
        return secret


_C = TypeVar("_C", bound=Configuration)


def _nothing(_: Configuration) -> None:
    """For who has nothing to clean up."""


def run_process(
    arguments: list[str],
    kind: type[_C],
    serve: Callable[[_C], Awaitable[None]],
    bereaved: Callable[[_C], None] = _nothing,
) -> int:
    """Run ``serve`` with the configuration that ``arguments[1]`` names; gives the exit code.

    ``bereaved`` is called at the end if that was the death of the parent, so that nobody else is
    left to clean up.
    """
    code = 0
    _collect_garbage()
    _have_descriptors()
    try:
        configuration = _read(arguments, kind)
        if configuration.parent:
            _die_with_parent()
        # A parent that died before the request to be told of its death is not told of any more.
        orphaned = configuration.parent != 0 and os.getppid() != configuration.parent
        if not orphaned:
            trio.run(_until_signalled, serve, bereaved, configuration, clock=HostClock())
    except* (ConfigurationError, JournalError) as group:
        for sentence in _sentences(group):
            sys.stderr.write(f"{sentence}\n")
        code = 1
    return code


def _read(arguments: list[str], kind: type[_C]) -> _C:
    if len(arguments) != 2:
        raise ConfigurationError(
            f"{len(arguments) - 1} arguments were given: give one, the path of a configuration "
            "file in JSON."
        )
    path = Path(arguments[1])
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise ConfigurationError(
            f"The configuration {path} cannot be read ({error.strerror}): give the path of a "
            "readable file."
        ) from None
    except msgspec.MsgspecError as error:
        raise ConfigurationError(
            f"The configuration {path} is wrong ({error}): correct it, or have 'numalab up' make "
            "one."
        ) from None


def _collect_garbage() -> None:
    """From now on, and not in what was imported: that is there for good."""
    gc.freeze()
    gc.enable()


def _have_descriptors() -> None:
    """As many as this process may have: every client takes two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def take_turns_often() -> None:
    """For who has a thread that is quick and often waited for: others let it go on sooner."""
    sys.setswitchinterval(_SWITCH_SECONDS)


def keep_freed_memory() -> None:
    """For who receives batches of pages: in fresh memory each page of each would cost a fault."""
    _mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    _mallopt(_M_TRIM_THRESHOLD, 64 << 20)


def give_back_freed_memory() -> None:
    """For who has large arrays for a while: left alone, malloc soon keeps those when they end."""
    _mallopt(_M_MMAP_THRESHOLD, 1 << 20)
    _mallopt(_M_TRIM_THRESHOLD, 2 << 20)


def _mallopt(parameter: int, value: int) -> None:
    """mallopt(3), where the C library has it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(parameter, value)


def _die_with_parent() -> None:
    """Have a signal when the parent dies, so that there is time to clean up."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, int(_PARENT_DIED), 0, 0, 0)


async def _until_signalled(
    serve: Callable[[_C], Awaitable[None]], bereaved: Callable[[_C], None], configuration: _C
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, _PARENT_DIED) as signals:
        async with trio.open_nursery() as nursery:

            async def work() -> None:
                await serve(configuration)

            nursery.start_soon(work)
            number = await anext(signals)
            nursery.cancel_scope.cancel()
        # A parent of several threads dies several times: the next signal must not be the end yet.
        if number == _PARENT_DIED and configuration.parent:
            bereaved(configuration)


def _sentences(group: BaseExceptionGroup[ConfigurationError | JournalError]) -> list[str]:
    sentences: list[str] = []
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            sentences += _sentences(error)
        else:
            sentences.append(str(error))
    return sentences


async def tell_health(file: str, serves: Callable[[], bool]) -> None:
    """Touch a file every second while ``serves()``, and remove it while not; empty: no file.

    For health checks that must be cheap: a look at a file starts no interpreter.
    """
    if not file:
        return
    try:
        while True:
            _mark(Path(file), serves())
            await trio.sleep(HEALTH_SECONDS)
    except OSError as error:
        raise ConfigurationError(
            f"The health file {file} cannot be written ({error.strerror}): give a path in a "
            "directory that this user may write."
        ) from None
    finally:
        with suppress(OSError):
            _mark(Path(file), False)


def _mark(path: Path, is_well: bool) -> None:
    if is_well:
        path.touch(mode=0o600)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def serving_metrics(exposition: Exposition, where: str) -> Iterator[None]:
    """Serve the metrics page at ``host:port``, if there is such an address, during the block.

    Raises ConfigurationError.
    """
    if where:
        host, _, port = where.rpartition(":")
        if not host or not port.isdecimal():
            raise ConfigurationError(
                f"metrics is '{where}': write host:port, as in 127.0.0.1:9100."
            )
        exposition.serve(host, int(port))
    try:
        yield
    finally:
        exposition.close()
