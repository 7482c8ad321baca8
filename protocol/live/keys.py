"""The keys of CURVE: a secret one for each process, and a directory of everybody's public ones.

That directory is the list of who may come in: ``node0.key`` holds the public key of node0, and who
has the secret to it is node0, to everybody who reads the directory.  Who is removed from it is out.
The files are the certificates of pyzmq and czmq.

A process makes its key when it first starts and publishes the public half itself, so secrets never
travel.  Nobody needs to be first: who is not in the directory yet may be there a moment later.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import zmq
from zmq.auth import load_certificate
from zmq.utils import z85

from protocol.core import ConfigurationError

PUBLIC_SUFFIX = ".key"
SECRET_SUFFIX = ".key_secret"
#: Names of processes, and so of files.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}")
_KEY_BYTES = 32

_PUBLIC = """\
#   ZeroMQ CURVE Public Certificate of numalab: who has the secret to it is {name}.
metadata
    name = {name}
curve
    public-key = "{public}"
"""
_SECRET = """\
#   ZeroMQ CURVE **Secret** Certificate of numalab: show it to nobody, copy it nowhere.
metadata
    name = {name}
curve
    public-key = "{public}"
    secret-key = "{secret}"
"""
_Fingerprint = tuple[tuple[str, int, int, int], ...]


class Keys:
    """The key of the process ``name``, and the directory of public keys as it was last read.

    public, secret: in Z85, as zmq takes them.  Made by ``open_keys``.
    """

    def __init__(self, name: str, public: bytes, secret: bytes, directory: Path) -> None:
        self.name = name
        self.public = public
        self.secret = secret
        self.directory = directory
        self._fingerprint: _Fingerprint = ()
        self._keys: Mapping[str, bytes] = MappingProxyType({})
        self._owners: Mapping[str, str] = MappingProxyType({})
        self.refresh()

    def __repr__(self) -> str:
        return f"Keys({self.name!r}, {self.public!r}, {str(self.directory)!r})"

    def of(self, name: str) -> bytes | None:
        """The public key of a peer, in Z85; None: it is not in the directory."""
        return self._keys.get(name)

    def whose(self, names: Sequence[str]) -> str:
        """Half a sentence about public keys that are not there."""
        files = ", ".join(f"{name}{PUBLIC_SUFFIX}" for name in names)
        return (
            f"the public key of {' and '.join(names)}: {self.directory} has no sound {files}; see "
            "that they run, and that they publish their keys in the same directory."
        )

    def owner(self, public: str) -> str | None:
        """Whose public key (in Z85) this is; None: nobody's in the directory."""
        return self._owners.get(public)

    def refresh(self) -> bool:
        """Read the directory again if it has changed; True if it has.

        A directory that cannot be read is as it was; a file of it that is no key is not there.
        """
        try:
            fingerprint = _fingerprint(self.directory)
        except OSError:
            return False
        if fingerprint == self._fingerprint:
            return False
        self._fingerprint = fingerprint
        keys: dict[str, bytes] = {}
        for file, _, _, _ in fingerprint:
            with suppress(OSError, ValueError):
                keys[file.removesuffix(PUBLIC_SUFFIX)] = _read_public(self.directory / file)
        self._keys = MappingProxyType(keys)
        # Of two names for one key the first counts, so that nobody has two.
        owners = {key.decode(): name for name, key in sorted(keys.items(), reverse=True)}
        self._owners = MappingProxyType(owners)
        return True


def open_keys(name: str, secret_key: str | Path, public_keys: str | Path) -> Keys:
    """The keys of the process ``name``, which are made and published if they are missing.

    secret_key: path of its secret key; made with mode 0600, and refused if others may read it.
    public_keys: the directory of public keys; ``NAME.key`` is written into it if it is not there
    or is of another key, so it may be read-only when it has the right one.
    Raises ConfigurationError.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"'{name}' is no name for a key: write letters, digits, '.', '_' and '-'."
        )
    secret_path, directory = Path(secret_key), Path(public_keys)
    if not os.path.lexists(secret_path):
        _make_secret(name, secret_path)
    public, secret = _read_secret(secret_path)
    _publish(name, public, directory)
    return Keys(name, public, secret, directory)


def open_client_keys(secret_key: str | Path, public_keys: str | Path) -> Keys:
    """The same for a client, whose name is that of the file: ``client`` of client.key_secret."""
    return open_keys(Path(secret_key).name.removesuffix(SECRET_SUFFIX), secret_key, public_keys)


def _make_secret(name: str, path: Path) -> None:
    """Who starts twice at the same time has one key in the end."""
    public, secret = (key.decode() for key in zmq.curve_keypair())
    text = _SECRET.format(name=name, public=public, secret=secret)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(unfinished, text, 0o600)
        try:
            with suppress(FileExistsError):
                os.link(unfinished, path)
        finally:
            unfinished.unlink()
    except OSError as error:
        raise ConfigurationError(
            f"The secret key {path} of {name} cannot be made ({error.strerror}): give a path in a "
            "directory that this user may write."
        ) from None


def _read_secret(path: Path) -> tuple[bytes, bytes]:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigurationError(f"The secret key {path} is no file: give the path of one.")
        if status.st_mode & 0o077:
            raise ConfigurationError(
                f"The secret key {path} may be used by others than its owner (mode "
                f"{stat.S_IMODE(status.st_mode):04o}): 'chmod 600 {path}', and if others have read "
                "it, remove it to have a new one made."
            )
        public, secret = load_certificate(path)
        if secret is not None and _is_key(secret) and zmq.curve_public(secret) == public:
            return public, secret
    except OSError as error:
        raise ConfigurationError(
            f"The secret key {path} cannot be read ({error.strerror}): let it belong to the user "
            "of this process."
        ) from None
    except ValueError:
        pass
    raise ConfigurationError(
        f"The secret key {path} is damaged: put it back from a copy, or remove it to have a new "
        "one made."
    )


def _publish(name: str, public: bytes, directory: Path) -> None:
    path = directory / f"{name}{PUBLIC_SUFFIX}"
    with suppress(OSError, ValueError):
        if _read_public(path) == public:
            return
    unfinished = directory / f".{path.name}.{secrets.token_hex(4)}"
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        _write(unfinished, _PUBLIC.format(name=name, public=public.decode()), 0o644)
        unfinished.rename(path)
    except OSError as error:
        raise ConfigurationError(
            f"The public key of {name} cannot be written to {path} ({error.strerror}): let this "
            f"user write into {directory}, or put it there yourself."
        ) from None


def _read_public(path: Path) -> bytes:
    """Raises OSError or ValueError."""
    public, _ = load_certificate(path)
    if not _is_key(public):
        raise ValueError(f"{path} has no public key")
    return public


def _is_key(text: bytes) -> bool:
    try:
        return len(z85.decode(text)) == _KEY_BYTES
    except (ValueError, KeyError, struct.error):
        return False


def _write(path: Path, text: str, mode: int) -> None:
    """Whole, and on disk: a key must not be half there after a crash."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "w") as file:
        # The mask of the process shall not hide a public key from the others.
        os.fchmod(descriptor, mode)
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def _fingerprint(directory: Path) -> _Fingerprint:
    """What changes when a file of the directory does.  Raises OSError."""
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            name = entry.name.removesuffix(PUBLIC_SUFFIX)
            if name != entry.name and _NAME.fullmatch(name):
                status = entry.stat()
                found.append((entry.name, status.st_mtime_ns, status.st_ino, status.st_size))
    return tuple(sorted(found))
