# SPDX-License-Identifier: Apache-2.0
"""JSON that others wrote: decoded with care, and read value by value.

A reader raises what names the place in the file, the key, and what is accepted there.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeGuard

_DEEPEST: Final = 64
"""Levels of nesting that are read; the files have five."""
_DIGITS: Final = 30
"""Digits of a number; what has more is read as a text, since Python refuses very long ones."""
_STRUCTURE: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
"""Texts and brackets; a text without an end is one, too, so that nothing is looked at twice."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_POOL_MAX: Final = 2**63 - 1


class MalformedFileError(Exception):
    """A file, or a part of it, is not what it should be; the text names the entry and the key."""


def decode(content: bytes) -> object:
    """Decode JSON; what is nested deeper than any schema says reads as null.

    Bytes that are no UTF-8, and line breaks, spoil no more than the text that they stand in.

    Raises:
        ValueError: it is no JSON.
    """
    encoding = json.detect_encoding(content)
    # bytes become half surrogate pairs, which are no text
    errors = "surrogateescape" if encoding.startswith("utf-8") else "surrogatepass"
    return json.loads(
        _shallow(content.decode(encoding, errors)),
        object_pairs_hook=_merged,
        parse_int=_integer,
        strict=False,
    )


def _merged(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Take the last value of a key, but never a null for a value, and objects together, as Go."""
    found: dict[str, Any] = {}
    own: set[str] = set()
    for key, value in pairs:
        earlier = found.get(key)
        if isinstance(earlier, dict) and isinstance(value, dict):
            found[key] = earlier if key in own else dict(earlier)
            found[key].update(value)
            own.add(key)
        elif value is not None or key not in found:
            found[key] = value
            own.discard(key)
    return found


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _DIGITS else digits


def _shallow(content: str) -> str:
    """Put null in the place of what is nested too deep."""
    kept, depth, begin = [], 0, 0
    for token in _STRUCTURE.finditer(content):
        if token.group() in "[{":
            depth += 1
            if depth == _DEEPEST + 1:
                kept.append(content[begin : token.start()] + "null")
        elif token.group() in "]}":
            if depth == _DEEPEST + 1:
                begin = token.end()
            depth -= 1
    return "".join([*kept, content[begin:]]) if depth <= _DEEPEST else ""


def short(value: object) -> str:
    """Return what stands in a file as a message may show it."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"  # noqa: PLR2004 - what fits a line


def malformed(where: str, key: str, accepted: str, found: object) -> MalformedFileError:
    """Return the error that says what is accepted."""
    return MalformedFileError(f"{where}: {key} must be {accepted}, not {short(found)}")


def as_object(value: object, where: str) -> dict[str, Any]:
    """Return an object, or raise."""
    if not isinstance(value, dict):
        raise MalformedFileError(f"{where} must be an object, not {short(value)}")
    return value


def folded(value: object, where: str) -> dict[str, Any]:
    """Return an object by its keys in lower case; a null never stands for a value beside it."""
    items = as_object(value, where).items()
    return _merged((key.lower(), each) for key, each in items if each is not None)


def raw_table(entry: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """Return the object under a key as it is; without the key, an empty one."""
    value = entry.get(key.lower())
    return {} if value is None else as_object(value, f"{where}: {key}")


def table(entry: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """Return the object under a key by its keys in lower case."""
    return folded(raw_table(entry, key, where), where)


def as_list(value: object, where: str) -> list[Any]:
    """Return a list, or raise; null is an empty one."""
    return [] if value is None else whole_list(value, where)


def whole_list(value: object, where: str) -> list[Any]:
    """Return a list, or raise."""
    if not isinstance(value, list):
        raise MalformedFileError(f"{where} must be a list, not {short(value)}")
    return value


def text_of(entry: Mapping[str, Any], key: str, where: str) -> str:
    """Return the text under a key without blanks around it; without the key, an empty one."""
    value = entry.get(key.lower())
    if value is None:
        return ""
    if not is_text(value) or _CONTROL.search(value.strip()):
        raise malformed(where, key, "a text", value)
    return value.strip()


def name_in(value: object) -> str:
    """Return a text without blanks around it; an empty one for what is no name."""
    name = value.strip() if is_text(value) else ""
    return "" if _CONTROL.search(name) else name


def is_text(value: object) -> TypeGuard[str]:
    """Tell a text that handles and Ceph can hold; JSON also spells NUL and half surrogate pairs."""
    return isinstance(value, str) and "\0" not in value and _encodes(value)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def pool_of(value: object, where: str, key: str) -> int:
    """Return a pool id, or raise."""
    pool = pool_id(value)
    if pool is None:
        raise malformed(where, key, "pool ids in decimal digits", value)
    return pool


def pool_id(value: object) -> int | None:
    """Return a pool id, which is a number or its digits; ``None`` for anything else."""
    if isinstance(value, str):
        value = value.strip()
    text = str(value) if type(value) is int and 0 <= value <= _POOL_MAX else value
    if not isinstance(text, str) or not text.isascii() or not text.isdecimal():
        return None
    fits = len(text) <= len(str(_POOL_MAX)) and int(text) <= _POOL_MAX
    return int(text) if fits else None
