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
_NAME: Final = re.compile(r"(?=[^A-Za-z0-9]*[A-Za-z0-9])[A-Za-z0-9_.@+-]{1,128}", re.ASCII)
"""The name of a cephx user. Ceph itself takes any text; nobody names users otherwise, and what
else may stand there cannot be shown."""
_RUN: Final = re.compile(r"[A-Za-z0-9+/]+", re.ASCII)
_RUN_OF_KEY: Final = 30
"""Base64 characters in a row that no message shows, except for a digest."""
_DIGEST: Final = re.compile(r"[0-9a-f]{32}|[0-9a-f]{40}", re.ASCII)
"""MD5 and SHA-1 in hexadecimal digits, as operators name users."""
_RARE: Final = 4
"""Characters of a name that base64 may make of another name by chance."""
_PIECE: Final = 12
"""Characters that a name and a key never have in common by chance."""
_START: Final = re.compile(r"(?=(A[Qg][A-D][A-Za-z0-9+/_-]{13}))", re.ASCII)
"""The head of a key, wherever it begins."""
_KEYRING: Final = re.compile(
    r"^\s*\[[^\]]*\]|(?:^|[\s{,\"'.:-])(?:user)?key[\"']?\s*[:=]\s*[\"']?[a-z0-9+/]",
    re.MULTILINE | re.IGNORECASE | re.ASCII,
)
"""A keyring, or a line of one, as any of Ceph's commands prints it."""


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
    """Return what is wrong with a userID; empty when nothing is. A name alone is ever shown."""
    if _encodings(user) or (_encodings(key) and _share_a_piece(user, key)):
        return "userID of the secret is a key, or a part of one; accepted is the name of a user"
    if any(_is_like_a_key(run) for run in _RUN.findall(user)):
        return "userID of the secret looks like a key; accepted is the name of a cephx user"
    if _is_encoded_name(user):
        return "userID of the secret is encoded with base64; accepted is the name itself"
    name = _bare(user)
    if _NAME.fullmatch(user) and _NAME.fullmatch(name):
        shown = f"userID of the secret is {user!r}; accepted is {name!r}, without 'client.'"
        return "" if name == user else shown
    return (
        "userID of the secret is not the name of a cephx user; accepted is the name without "
        "'client.', quotes and spaces: letters, digits and . _ - @ +"
    )


def _bare(user: str) -> str:
    """Return the name without ``client.``, however often and in whatever case."""
    while user.casefold().startswith("client."):
        user = user[len("client.") :]
    return user


def _is_like_a_key(run: str) -> bool:
    return len(run) >= _RUN_OF_KEY and not _DIGEST.fullmatch(run)


def _share_a_piece(user: str, key: str) -> bool:
    # a keyring names the user beside the key
    runs = filter(_is_like_a_key, _RUN.findall("".join(key.split())))
    pieces = {run[at : at + _PIECE] for run in runs for at in range(len(run) - _PIECE + 1)}
    return any(user[at : at + _PIECE] in pieces for at in range(len(user) - _PIECE + 1))


def _is_encoded_name(user: str) -> bool:
    """Tell whether base64 was made of a name. Many plain names are base64 of something, too."""
    raw = _decoded(_padded(user)) or b""
    found = raw.decode(errors="replace")
    name = found.strip()
    if not _NAME.fullmatch(name):
        return False
    # the line break of 'echo' is no chance
    return user.endswith("=") or _bare(name) != name or (found != name and len(name) > _RARE)


def _fault_of_key(text: str) -> str:
    """Return what is wrong with a userKey; empty when nothing is."""
    encodings = _encodings(text)
    if encodings > 1:
        times = "twice" if encodings == 2 else f"{encodings} times"  # noqa: PLR2004 - a word for it
        return f"userKey of the secret is encoded {times} with base64; {_ACCEPTED}"
    raw = _decoded(text)
    if raw is not None:
        return _fault_of_raw(raw)
    if len(text) <= _LONGEST and _KEYRING.search(text):
        return f"userKey of the secret is a keyring, not the key in it alone; {_ACCEPTED}"
    beside = (
        ", though it holds a key: '=' at its end is missing, or something stands beside the key"
        if encodings
        else ""
    )
    return f"userKey of the secret is not base64{beside}; {_ACCEPTED}"


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
    """Return how often a cephx key is encoded in a text; 0 when none can be seen in it.

    What stands beside the key at any of the levels, such as a keyring or quotes, does not hide it,
    and neither does ``=`` that is missing at the end.
    """
    if len(text) > _LONGEST:
        return 0
    for times in range(1, _DEEPEST + 1):
        text = "".join(text.split()).replace("\0", "")
        raw = _decoded(_padded(text)) or b""
        if (len(raw) >= _HEAD.size and _looks_like_a_key(raw)) or _holds_a_head(text):
            return times
        longest = max(_RUN.findall(text), key=len, default="")
        text = (_decoded(_padded(longest)) or b"").decode("ascii", errors="ignore")
    return 0


def _holds_a_head(text: str) -> bool:
    """Tell whether a key begins anywhere in a text."""
    for match in _START.finditer(text):
        kind, length = _kind_and_length(base64.urlsafe_b64decode(_plain(match[1])))
        if length == _LEAST.get(kind):
            return True
    return False


def _plain(text: str) -> str:
    """Return base64 in the alphabet for file names."""
    return text.replace("+", "-").replace("/", "_")


def _padded(text: str) -> str:
    """Return base64 with the ``=`` that it should end in."""
    text = text.rstrip("=")
    return text + "=" * (-len(text) % 4)


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
