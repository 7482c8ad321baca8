"""Where a machine is: its run directory, or its address and key."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from protocol.codec import KEY_BYTES
from protocol.live.keys import Keys, open_client_keys
from protocol.schema import COORDINATOR

DESCRIPTION = "machine.json"
KEY_VARIABLE = "NUMALAB_KEY"
#: These hold paths, no secrets.
KEY_FILE_VARIABLE = "NUMALAB_KEY_FILE"
SECRET_KEY_VARIABLE = "NUMALAB_SECRET_KEY"
PUBLIC_KEYS_VARIABLE = "NUMALAB_PUBLIC_KEYS"


class MachineUnreachable(ConnectionError):
    """There is no machine where one was looked for: one sentence."""


class ProcessRow(msgspec.Struct, frozen=True):
    """One process of a local machine.

    started: clock ticks after boot, as in /proc/PID/stat: with it a pid names one process for ever.
    metrics: URL, or empty.  zone: path of a node's zone file, or empty.
    """

    name: str
    pid: int
    started: int
    address: str
    metrics: str
    log: str
    zone: str = ""


class MachineFile(msgspec.Struct, frozen=True):
    """``machine.json``: all that is known of a local machine that runs; mode 0600 for its key.

    schema: 1.  key: 32 hexadecimal digits.  secret_key, public_keys: paths of the clients' secret
    key and of the directory of public ones (docs/security.md), or both empty: without CURVE.
    """

    schema: int
    coordinator: str
    key: str
    processes: tuple[ProcessRow, ...]
    secret_key: str = ""
    public_keys: str = ""

    def client_keys(self) -> Keys | None:
        """What a client of it needs, None: nothing.  Raises ConfigurationError."""
        return open_client_keys(self.secret_key, self.public_keys) if self.secret_key else None


def default_run_directory(name: str = "default") -> Path:
    """``/tmp/numalab-UID/NAME``."""
    return Path(f"/tmp/numalab-{os.getuid()}") / name


def read_machine(run_directory: Path) -> MachineFile:
    """The machine that runs in this directory.  Raises MachineUnreachable."""
    path = run_directory / DESCRIPTION
    try:
        return msgspec.json.decode(path.read_bytes(), type=MachineFile)
    except FileNotFoundError:
        raise MachineUnreachable(
            f"No machine runs in {run_directory}: start one with 'numalab up', or say where it is."
        ) from None
    except OSError as error:
        raise MachineUnreachable(
            f"{path} cannot be read ({error.strerror}): use a machine of your own."
        ) from None
    except msgspec.MsgspecError as error:
        raise MachineUnreachable(
            f"{path} does not describe a machine ({error}): take it down and start it again."
        ) from None


def locate(
    address: str | Path | None, key: bytes | None, keys: Keys | None = None
) -> tuple[str, bytes, Path | None, Keys | None]:
    """The coordinator's address, the machine's key, its run directory if it is a local one, and
    the keys for CURVE if it has that.

    address: a run directory (None: the default one), or ``tcp://host:port``; then the key is
    ``key`` or 32 hexadecimal digits in the environment variable NUMALAB_KEY or, without that, in
    the file of which NUMALAB_KEY_FILE says the path; and the keys are ``keys`` or those of which
    NUMALAB_SECRET_KEY and NUMALAB_PUBLIC_KEYS say the paths.
    Raises MachineUnreachable, ConfigurationError.
    """
    if address is None or not str(address).startswith("tcp://"):
        directory = default_run_directory() if address is None else Path(address)
        machine = read_machine(directory)
        secret = _key(machine.key, str(directory)) if key is None else key
        return machine.coordinator, secret, directory, keys or machine.client_keys()
    secret = _key_elsewhere(str(address)) if key is None else key
    return str(address), secret, None, keys or _keys_elsewhere()


def _key_elsewhere(address: str) -> bytes:
    if KEY_VARIABLE in os.environ:
        return _key(os.environ[KEY_VARIABLE], KEY_VARIABLE)
    path = os.environ.get(KEY_FILE_VARIABLE)
    if not path:
        raise MachineUnreachable(
            f"The key of the machine at {address} is missing: put its 32 hexadecimal digits "
            f"into the environment variable {KEY_VARIABLE}, or the path of a file that holds them "
            f"into {KEY_FILE_VARIABLE}."
        )
    try:
        text = Path(path).read_text(errors="replace")
    except OSError as error:
        raise MachineUnreachable(
            f"The key {path} cannot be read ({error.strerror}): {KEY_FILE_VARIABLE} has to be the "
            "path of a file that this user may read."
        ) from None
    return _key(text, path)


def _keys_elsewhere() -> Keys | None:
    paths = [os.environ.get(name, "") for name in (SECRET_KEY_VARIABLE, PUBLIC_KEYS_VARIABLE)]
    if not any(paths):
        return None
    if not all(paths):
        raise MachineUnreachable(
            f"Only one of {SECRET_KEY_VARIABLE} and {PUBLIC_KEYS_VARIABLE} is set: set both, to "
            "the path of a secret key and to that of the directory of public keys, or none."
        )
    return open_client_keys(*paths)


def why_silent(address: str, within: float, keys: Keys | None) -> str:
    """What to look at when nobody answers; ``within`` in seconds."""
    if keys is None:
        return (
            f"No machine answers at {address} within {within:g} s: is it up, and is this its key?"
        )
    if keys.of(COORDINATOR) is None:
        return f"A machine with CURVE needs {keys.whose([COORDINATOR])}"
    return (
        f"No machine answers at {address} within {within:g} s: is it up, has it the keys in "
        f"{keys.directory}, and is this its key?"
    )


def _key(text: str, where: str) -> bytes:
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise MachineUnreachable(
            f"The key in {where} is malformed: it has to be {2 * KEY_BYTES} hexadecimal digits."
        )
    return key
