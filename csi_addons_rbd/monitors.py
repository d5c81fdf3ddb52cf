# SPDX-License-Identifier: Apache-2.0
"""The monitor addresses of config.json, as librados can take them. Pure.

librados ends its process with SIGABRT when one address stands in two vectors, or in front of a
vector that has it too (``MonMap::add``, seen on 16.2 and 20.2). It refuses a whole list for one
member that it cannot parse, and a vector with a DNS name. So the addresses are parsed here, every
one is written once, with its protocol and port, and names are resolved before librados is asked.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, TypeAlias

from csi_addons_rbd.json_values import short

ACCEPTED: Final = (
    "10.0.0.1:6789, v2:10.0.0.1:3300, [v2:10.0.0.1:3300,v1:10.0.0.1:6789], [::1]:6789 "
    "or a DNS name in place of the address"
)
"""The forms of a monitor, for messages."""
_MOST: Final = 64
"""Addresses of one cluster; a cluster has three to seven monitors with two each."""
_TOLD: Final = 5
"""Faults of one cluster's monitors that are told one by one."""
_LONGEST: Final = 16 * 1024
"""Characters of one text."""
_WORD_MAX: Final = 300
"""Characters of one address; a DNS name has 253 at most."""
_PORT_MAX: Final = 2**16 - 1
_NONCE_MAX: Final = 2**32 - 1
_PORTS: Final = {"v2": 3300, "v1": 6789}
"""The protocols and the ports that IANA registered for them, in the order of preference."""
_NAME_MAX: Final = 253

_TOKEN: Final = re.compile(
    r"(?P<gap>[\s,;]+)"
    r"|(?P<word>(?:\[[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*\]"
    r"|\[[^\s,;:\[\]]{1,253}\](?=:)|[^\s,;\[\]])+)"
    r"|(?P<bracket>[\[\]])"
)
"""What a text is made of; one host in brackets is part of a word: an IPv6 address, or any that a
port follows."""
_ADDRESS: Final = re.compile(
    r"(?:(?P<kind>v1|v2|any):)?"
    r"(?:\[(?P<closed>[0-9A-F:.]{2,45}|[^\[\]:/]+)\]|(?P<bare>(?:[0-9A-F.]{0,15}:){2}[0-9A-F:.]{0,45})"
    r"|(?P<host>[^\[\]:/]+))"
    r"(?::(?P<port>[0-9]{1,5}))?(?:/(?P<nonce>[0-9]{0,10}))?",
    re.IGNORECASE | re.ASCII,
)
"""One address. Every repetition has a bound, or only one way to match: it takes no time."""
_QUOTES: Final = "\"'`"
_NAMED: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}=", re.ASCII)
"""The name of a monitor before its address, as Rook notes it."""
_STRAY: Final = re.compile(r"(?:mon\.)?[A-Za-z0-9_-]+\.?", re.IGNORECASE | re.ASCII)
"""What is a word of some other text rather than a DNS name, where a text cannot be read wholly."""
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """One address of a monitor."""

    kind: str
    """The messenger protocol: ``v2`` or ``v1``."""
    host: str
    """An IPv4 or IPv6 address, or a DNS name."""
    port: int
    is_name: bool = False

    def __str__(self) -> str:
        """Return it as librados reads it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind}:{host}:{self.port}"


Vector: TypeAlias = tuple[Address, ...]
"""The addresses of one monitor; librados takes the first one."""
Lookup: TypeAlias = Callable[[str], Iterable[str]]
"""Returns the IP addresses of a name; none when it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitors:
    """What was read of the monitors of one cluster."""

    texts: tuple[str, ...]
    """Each address stands once in them."""
    faults: tuple[str, ...]
    """What was left out, and why."""


def parse_monitors(texts: Iterable[str]) -> Monitors:
    """Read monitors in any of their forms; what cannot be read is left out and named."""
    faults: list[str] = []
    kept = _merged(_vectors(texts, faults))
    if sum(map(len, kept)) > _MOST:
        faults.append(f"only the first {_MOST} addresses are used")
    if len(faults) > _TOLD:
        faults[_TOLD:] = [f"{len(faults) - _TOLD} faults more"]
    return Monitors(texts=tuple(map(_written, _first(kept))), faults=tuple(faults))


def resolve_monitors(texts: Iterable[str], lookup: Lookup) -> tuple[str, ...]:
    """Replace the DNS names in what ``parse_monitors`` returned by their addresses.

    A name without an address is left out, so the result may be empty.
    """
    resolved = (each for vector in _vectors(texts) for each in _resolved(vector, lookup))
    return tuple(map(_written, _first(_merged(resolved))))


def names_in(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the DNS names in what ``parse_monitors`` returned, each once."""
    addresses = (address for vector in _vectors(texts) for address in vector)
    return tuple(dict.fromkeys(each.host for each in addresses if each.is_name))


def _vectors(texts: Iterable[str], faults: list[str] | None = None) -> Iterator[Vector]:
    """Yield what can be read, and note what cannot."""
    for text in texts:
        pieces = list(_pieces(text))
        if "=" in text or any(isinstance(piece, str) for piece in pieces):
            pieces = list(_pieces(text, wary=True))
        for piece in pieces:
            if not isinstance(piece, str):
                yield piece
            elif faults is not None:
                faults.append(piece)


def _written(vector: Vector) -> str:
    return str(vector[0]) if len(vector) == 1 else f"[{','.join(map(str, vector))}]"


def _merged(vectors: Iterable[Vector]) -> list[Vector]:
    """Keep the first occurrence of each address, and drop what has none left.

    Vectors come first: they tell more than an address that stands alone.
    """
    seen: set[Address] = set()
    merged = []
    for vector in sorted(vectors, key=lambda each: len(each) == 1):
        # in one vector, too
        new = tuple(each for each in dict.fromkeys(vector) if each not in seen)
        seen.update(new)
        if new:
            merged.append(new)
    return merged


def _first(vectors: Iterable[Vector]) -> Iterator[Vector]:
    """Yield vectors until there are as many addresses as may be."""
    left = _MOST
    for vector in vectors:
        if vector[:left]:
            yield vector[:left]
        left = max(0, left - len(vector))


def _resolved(vector: Vector, lookup: Lookup) -> Iterator[Vector]:
    """Yield the vector for each host that its names stand for."""
    if not any(each.is_name for each in vector):
        yield vector
        return
    by_host: dict[str, list[Address]] = {}
    for address in vector:
        hosts = filter(None, map(_ip, lookup(address.host))) if address.is_name else [address.host]
        for host in hosts:
            by_host.setdefault(host, []).append(replace(address, host=host, is_name=False))
    yield from map(tuple, by_host.values())


# --- from text to addresses ---------------------------------------------------------------


def _pieces(text: str, *, wary: bool = False) -> Iterator[Vector | str]:
    """Yield what the text is made of: vectors, or a sentence about what is wrong.

    A bracket that is missing, or one too many, costs nothing that can be read without it. ``wary``
    takes no word for a DNS name that may be any word.
    """
    if len(text) > _LONGEST:
        yield f"{short(text)} is longer than {_LONGEST} characters"
        return
    unpaired = f"a bracket of {short(text)} has no counterpart"
    inside: Vector | None = None
    before = ""
    for token in _TOKEN.finditer(text):
        value = token.group()
        if value in "[]":
            if (value == "[") is (inside is not None):
                yield unpaired
            yield inside or ()
            inside = () if value == "[" else None
        elif token.lastgroup == "word":
            opens = inside is None and text.startswith("[", token.end())
            if _is_decoration(value, after_vector=before == "]", before_vector=opens):
                continue
            # what touches a bracket from outside belongs to something that cannot be read
            word = "" if before == "]" or opens else _undecorated(value)
            addresses = () if wary and _is_stray(word) else _addresses(word)
            if not addresses:
                yield f"{short(value)} is no address of a monitor"
            elif inside is not None and len(addresses) == 1:
                inside += addresses
            else:
                # two protocols may be meant, and librados would try the first of a vector alone
                yield from ((each,) for each in addresses)
        before = value
    if inside is not None:
        yield unpaired
        yield inside


def _undecorated(word: str) -> str:
    """Return a word without quotes around it, and without the name of a monitor before it."""
    return _NAMED.sub("", word.strip(_QUOTES), count=1).strip(_QUOTES)


def _is_decoration(word: str, *, after_vector: bool, before_vector: bool) -> bool:
    """Tell what means nothing: quotes, a nonce behind a vector, a name before one."""
    word = word.strip(_QUOTES)
    if after_vector and word[:1] == "/" and (word[1:].isdecimal() or not word[1:]):
        return True
    return not word or (before_vector and _NAMED.fullmatch(word) is not None)


def _is_stray(word: str) -> bool:
    return not word.isdecimal() and _STRAY.fullmatch(word) is not None


def _addresses(word: str) -> Vector:
    """Read one address; one without protocol may stand for two, as for librados."""
    match = _ADDRESS.fullmatch(word) if len(word) <= _WORD_MAX else None
    if match is None:
        return ()
    host, is_name = _host(match)
    kind, port = (match["kind"] or "any").lower(), int(match["port"] or 0)
    if not host or port > _PORT_MAX or int(match["nonce"] or 0) > _NONCE_MAX:
        return ()
    if kind == "any":
        kinds = [each for each, usual in _PORTS.items() if port == usual] or list(_PORTS)
    else:
        kinds = [kind]
    return tuple(Address(each, host, port or _PORTS[each], is_name) for each in kinds)


def _host(match: re.Match[str]) -> tuple[str, bool]:
    """Return the host in one spelling, and whether it is a name; empty when it is neither."""
    host = (match["closed"] or match["bare"] or match["host"]).lower()
    if ":" in host:
        return _ip6(host), False
    labels = host.removesuffix(".").split(".")
    # a last label of digits is an address to every resolver, and this one is none
    if labels[-1].isdecimal():
        return _ip4(host), False
    is_name = len(host) <= _NAME_MAX and all(map(_LABEL.fullmatch, labels))
    return (host, True) if is_name else ("", False)


def _ip(text: str) -> str:
    return _ip6(text) if ":" in text else _ip4(text)


def _ip4(text: str) -> str:
    try:
        address = IPv4Address(text)
    except AddressValueError:
        return ""
    return "" if address.is_unspecified else str(address)


def _ip6(text: str) -> str:
    """Return it in the spelling that librados reads: one of IPv4 as IPv4, none with a zone."""
    try:
        address = IPv6Address(text)
    except AddressValueError:
        return ""
    if address.ipv4_mapped is not None:
        return _ip4(str(address.ipv4_mapped))
    return "" if address.is_unspecified or address.scope_id else str(address)
