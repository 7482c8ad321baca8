"""Abstract unix sockets: names in no file system, whose the other end is, and who is not there."""

from __future__ import annotations

import os
import socket
import struct
import time

#: After so many seconds somebody who did not listen is tried again: a start waits for that.
RETRY_SECONDS = 0.05
#: So long nobody is let in when there is no descriptor left for who comes.
DEAF_SECONDS = 0.1
#: struct ucred: pid, uid, gid.
_CREDENTIALS = struct.Struct("3i")


def abstract(kind: str, address: str) -> str:
    """The name at which who is bound to this address takes connections of this kind."""
    return f"\0numalab {kind} {address}"


def listen_at(kind: str, address: str, type_of: int) -> socket.socket | None:
    """A socket that does not wait, and takes such connections; None: the name cannot be had."""
    listener = None
    try:
        listener = socket.socket(socket.AF_UNIX, type_of)
        listener.bind(abstract(kind, address))
        listener.listen(socket.SOMAXCONN)
    except OSError:
        if listener is not None:
            listener.close()
        return None
    listener.setblocking(False)
    return listener


def connected(kind: str, address: str, type_of: int) -> socket.socket:
    """A connection to who listens so, if it is of the same user.  Never waits.  Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, type_of)
    try:
        # A unix socket connects at once or not at all.
        connection.setblocking(False)
        connection.connect(abstract(kind, address))
        check_user(connection)
    except OSError:
        connection.close()
        raise
    return connection


def check_user(connection: socket.socket) -> None:
    """Raises PermissionError: the other end is another user's."""
    size = _CREDENTIALS.size
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    if _CREDENTIALS.unpack(peer)[1] != os.geteuid():
        raise PermissionError


class Absent:
    """Addresses at which nobody listened a moment ago."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def add(self, address: str) -> None:
        """Nobody does."""
        self._until[address] = time.monotonic() + RETRY_SECONDS

    def __contains__(self, address: str) -> bool:
        return self._until.get(address, 0.0) > time.monotonic()
