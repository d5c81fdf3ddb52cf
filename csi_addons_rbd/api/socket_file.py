# SPDX-License-Identifier: Apache-2.0
"""The Unix socket's path: whose it is, and how it is taken over and given back.

gRPC unlinks whatever socket it finds at a path before it binds, also one that a living server
listens on. So a lock beside the path (``<path>.lock``) keeps a second driver out, and a
connection attempt finds out any other server. The kernel drops the lock with the process: a
kill -9 leaves nothing that blocks a restart.
"""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_MODE: Final = 0o660
"""The sidecar runs as another user of the same group."""
_UMASK: Final = 0o777 & ~_MODE
_CONNECT_SECONDS: Final = 1.0


class CannotStartError(Exception):
    """The driver cannot serve; the text is the one sentence to show."""


class SocketFile:
    """One path, held from construction to the end of the process.

    Raises:
        CannotStartError: the path is in use, or is no place for a socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode: tuple[int, int] | None = None
        self._lock = _lock(path)
        _clear(path)

    @contextmanager
    def binding(self) -> Iterator[str]:
        """Give the address to bind within the block, so that the file has mode 0660 at once."""
        old = os.umask(_UMASK)
        try:
            yield f"unix://{self._path}"
        except RuntimeError as exc:
            raise CannotStartError(f"{self._path} cannot be bound: {exc}") from exc
        finally:
            os.umask(old)
        self._path.chmod(_MODE)
        self._inode = _inode(self._path)

    def remove(self) -> None:
        """Remove the file, if it is still the one that was bound."""
        if self._inode is not None and _inode(self._path) == self._inode:
            self._path.unlink(missing_ok=True)


def _lock(path: Path) -> int:
    """Take the lock; its descriptor stays open on purpose."""
    lock = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise CannotStartError(
            f"{path.parent} does not exist; make the directory of the socket first"
        ) from None
    except OSError as exc:
        raise CannotStartError(f"{lock} cannot be made: {exc.strerror}") from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(descriptor)
        raise CannotStartError(
            f"{path} belongs to another driver that is running ({lock} is locked)"
        ) from exc
    return descriptor


def _clear(path: Path) -> None:
    """Remove a socket that nobody listens on any more."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise CannotStartError(
            f"{path} exists and is not a socket; remove it or choose another --endpoint"
        )
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_CONNECT_SECONDS)
        result = client.connect_ex(str(path))
    if result == errno.ECONNREFUSED:
        path.unlink(missing_ok=True)
    elif result == errno.EACCES:
        raise CannotStartError(
            f"{path} is a socket of another user; whether it is in use cannot be told"
        )
    elif result != errno.ENOENT:
        raise CannotStartError(f"{path} is in use: a server answers on it")


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
