# SPDX-License-Identifier: Apache-2.0
"""Ceph's own encoding: what the methods of its object classes take, and what they and omaps hold.

Each structure begins with its version, the oldest version whose readers understand it, and its
length. Later versions append members; so what a release writes, older ones can read.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from csi_addons_rbd.replication.errors import CephFailure

_CLIENT: Final = 8
"""``CEPH_ENTITY_TYPE_CLIENT``."""


def text(value: str) -> bytes:
    """Encode a ``std::string``."""
    raw = value.encode()
    return struct.pack("<I", len(raw)) + raw


def client_name(name: str) -> bytes:
    """Encode the ``entity_name_t`` of a client, such as ``client.4100``: kind and number."""
    return struct.pack("<BQ", _CLIENT, int(name.removeprefix("client.")))


def structure(*members: bytes) -> bytes:
    """Encode a structure in its first version: ``ENCODE_START(1, 1, …)``."""
    body = b"".join(members)
    return struct.pack("<BBI", 1, 1, len(body)) + body


@contextmanager
def decoding(what: str) -> Iterator[None]:
    """Turn what is raised over bytes that are something else into an error.

    Raises:
        CephFailure: these bytes are none.
    """
    try:
        yield
    except (struct.error, KeyError, ValueError) as exc:
        raise CephFailure(
            f"{what} cannot be read: it is damaged, or of a release of Ceph newer than this "
            "driver knows; see the image's health with 'rbd info', and use a newer driver"
        ) from exc


class Encoded:
    """Encoded bytes, off which one value after another is taken; ``struct.error`` at their end."""

    __slots__ = ("_at", "_data", "oldest", "version")

    def __init__(self, data: bytes, *, version: int = 0, oldest: int = 0) -> None:
        self._data = data
        self._at = 0
        self.version = version
        """Of a structure: the version it was written in."""
        self.oldest = oldest
        """Of a structure: the oldest version whose readers understand it."""

    def number(self, kind: str = "I") -> int:
        """Take a number, its kind as in ``struct``: ``B``, ``I`` or ``Q``."""
        (value,) = struct.unpack_from(f"<{kind}", self._data, self._at)
        self._at += struct.calcsize(f"<{kind}")
        return int(value)

    def raw(self) -> bytes:
        """Take bytes behind their length: a ``std::string`` or a ``bufferlist``."""
        return self.take(self.number())

    def text(self) -> str:
        """Take a ``std::string``."""
        return self.raw().decode()

    def seconds(self) -> int:
        """Take a ``utime_t`` in whole seconds since 1970."""
        seconds, _ = self.number(), self.number()
        return seconds

    def client(self) -> str:
        """Take an ``entity_name_t``: that of a client, such as ``client.4100``."""
        kind, number = self.number("B"), self.number("Q")
        if kind != _CLIENT:
            raise ValueError(f"an entity of kind {kind}")
        return f"client.{number}"

    def structure(self, known: int) -> "Encoded":
        """Take a structure, if readers of its version ``known`` understand it."""
        version, oldest, length = self.number("B"), self.number("B"), self.number()
        if oldest > known:
            raise struct.error(f"for readers of version {oldest}")
        return Encoded(self.take(length), version=version, oldest=oldest)

    def take(self, length: int) -> bytes:
        """Take so many bytes."""
        taken = self._data[self._at : self._at + length]
        if len(taken) < length:
            raise struct.error("too short")
        self._at += length
        return taken
