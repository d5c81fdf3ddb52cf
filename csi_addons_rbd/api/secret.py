# SPDX-License-Identifier: Apache-2.0
"""The secret of a request: a cephx user and its key, and what people make of them.

A key that librados cannot read it prints to stderr, and answers EINVAL or a timeout, neither of
which says what is wrong. So it is looked at here. No text ever shows it, nor a ``userID`` that may
be one.
"""

import base64
import re
import struct
from collections.abc import Mapping
from typing import Final

from csi_addons_rbd.replication.calls import Credentials
from csi_addons_rbd.replication.errors import Unauthenticated

_HEAD: Final = struct.Struct("<HIIH")
"""Head of a cephx key: type, seconds and nanoseconds of its making, length of what follows."""
_LEAST: Final = {1: 16, 2: 32}
"""Bytes of a key by its type: aes, and aes256k (Ceph 20)."""
_LONGEST: Final = 4096
"""Characters of a key that are looked at; one has 40 or 64."""
_DEEPEST: Final = 4
"""How often a key may be encoded, to be called a key that is encoded more than once."""
_ACCEPTED: Final = "accepted is the base64 text that 'ceph auth get-key' prints, encoded no further"
_SHOWABLE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
"""A userID that a message may show, unless it is a key."""
_KEYRING: Final = re.compile(r"^\s*(\[[^\]]*\]|key\s*=)", re.MULTILINE)


def credentials(secrets: Mapping[str, str]) -> Credentials:
    """Return the cephx user and key, without what an editor or a line break left in them.

    Raises:
        Unauthenticated: naming what is wrong, and never the key.
    """
    user, key = secrets.get("userID", "").strip(), secrets.get("userKey", "").strip()
    missing = [name for name, value in (("userID", user), ("userKey", key)) if not value]
    if missing:
        raise Unauthenticated(
            f"the secret has no {' and no '.join(missing)}; both userID and userKey are needed"
        )
    fault = _fault_of_user(user, key) or _fault_of_key(key)
    if fault:
        raise Unauthenticated(f"{fault}; correct the secret, it does not pass by itself")
    return Credentials(user=user, key="".join(key.split()))


def _fault_of_user(user: str, key: str) -> str:
    """Return what is wrong with a userID; empty when nothing is."""
    name = user.removeprefix("client.")
    if _encodings(name) or (_encodings(key) and key in user):
        return "userID of the secret is a key; accepted is the name of a cephx user"
    if user.endswith("=") and _SHOWABLE.fullmatch(
        (_decoded(user) or b"").decode(errors="replace").strip()
    ):
        return "userID of the secret is encoded twice with base64; accepted is the name itself"
    if name != user and _SHOWABLE.fullmatch(name):
        return f"userID of the secret is {user!r}; accepted is {name!r}, without 'client.'"
    if name == user and user.isprintable() and " " not in user:
        return ""
    return (
        "userID of the secret is not the name of a cephx user; accepted is the name without "
        "'client.' and without spaces"
    )


def _fault_of_key(text: str) -> str:
    """Return what is wrong with a userKey; empty when nothing is."""
    encodings = _encodings(text)
    if encodings > 1:
        times = "twice" if encodings == 2 else f"{encodings} times"  # noqa: PLR2004 - a word for it
        return f"userKey of the secret is encoded {times} with base64; {_ACCEPTED}"
    if _KEYRING.search(text):
        return f"userKey of the secret is a keyring, not the key in it alone; {_ACCEPTED}"
    raw = _decoded(text)
    if raw is None:
        return f"userKey of the secret is not base64; {_ACCEPTED}"
    return _fault_of_raw(raw)


def _fault_of_raw(raw: bytes) -> str:
    if len(raw) < _HEAD.size:
        return f"userKey of the secret is too short for a cephx key; {_ACCEPTED}"
    kind, length = _kind_and_length(raw)
    if length != len(raw) - _HEAD.size:
        return f"userKey of the secret is no cephx key, or a part of one; {_ACCEPTED}"
    if kind not in _LEAST:
        return (
            f"userKey of the secret is a key of type {kind}, which this driver does not know; "
            "accepted are 1 (aes) and 2 (aes256k)"
        )
    if length < _LEAST[kind]:
        return f"userKey of the secret holds fewer bytes than a key of its type; {_ACCEPTED}"
    return ""


def _encodings(text: str) -> int:
    """Return how often a cephx key is encoded in a text; 0 when none can be seen in it."""
    for times in range(1, _DEEPEST + 1):
        raw = _decoded(text)
        if raw is None:
            return 0
        if len(raw) >= _HEAD.size and _looks_like_a_key(raw):
            return times
        try:
            text = raw.decode("ascii")
        except UnicodeDecodeError:
            return 0
    return 0


def _looks_like_a_key(raw: bytes) -> bool:
    kind, length = _kind_and_length(raw)
    return kind < 256 and length == len(raw) - _HEAD.size  # noqa: PLR2004 - text is never so low


def _kind_and_length(raw: bytes) -> tuple[int, int]:
    kind: int
    length: int
    kind, _, _, length = _HEAD.unpack_from(raw)
    return kind, length


def _decoded(text: str) -> bytes | None:
    """Decode base64, on one line or several, as librados does."""
    if len(text) > _LONGEST:
        return None
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        return None
