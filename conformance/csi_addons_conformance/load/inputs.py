# SPDX-License-Identifier: Apache-2.0
"""Requests, good and bad, as hypothesis draws them.

Each is drawn as the bytes that go over the wire, so that whatever was sent can be sent again.
"""

import base64
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from google.protobuf.message import DecodeError, Message
from hypothesis import strategies as st

from csi_addons_conformance._proto import replication_pb2 as pb
from csi_addons_conformance.client import METHODS

CONTROLLER: Final = "/replication.Controller/"
_IDENTITY: Final = ("GetIdentity", "GetCapabilities", "Probe")
_DEADLINES: Final = (None, 0.001, 0.02, 1.0, *[4.0] * 8)
_TOO_LARGE: Final = 5 << 20
"""Bytes; gRPC takes 4 MiB unless told otherwise."""
PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {
    "mirroringMode": ("snapshot", "journal", "Snapshot", "image", ""),
    "schedulingInterval": ("1m", "24h", "30s", "9s", "0m", "-1m", "1.5h", "9999999d", "m", "１m"),
    "schedulingStartTime": ("14:30", "14:30:00+02:00", "2030-01-31T14:30:00Z", "25:00", "noon"),
    "flattenMode": ("never", "force", "Force", ""),
    "force": ("true", "false", "1", "T", "yes", "TRUE ", ""),
    "resyncMode": ("split-brain", "always", "never"),
}
"""What a class may say, and values of it: good, odd and bad."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One call: everything that is needed to make it, and to make it again."""

    site: str
    path: str
    """Such as ``/replication.Controller/PromoteVolume``."""
    raw: bytes = field(repr=False)
    timeout: float | None

    @property
    def method(self) -> str:
        """The name that reports use."""
        known = self.path.startswith(("/identity.", "/grpc.health.")) or self.request is not None
        return self.path.rpartition("/")[2] if known else "(no such method)"

    @property
    def request(self) -> Message | None:
        """An empty request of the method, if it is one of the Replication service."""
        name = self.path.removeprefix(CONTROLLER)
        return getattr(pb, f"{name}Request")() if name in METHODS else None

    @property
    def decoded(self) -> Message | None:
        """What the bytes say; ``None`` when they are no request of a Replication call."""
        request = self.request
        try:
            if request is not None:
                request.ParseFromString(self.raw)
        except DecodeError:
            return None
        return request

    def __str__(self) -> str:
        """Return what ``--repeat`` takes."""
        body = base64.b64encode(self.raw).decode()
        return f"{self.site} {self.path} {self.timeout} {body}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what was printed."""
        site, path, timeout, body = text.rstrip("\n").split(" ")
        return cls(
            site=site,
            path=path,
            raw=base64.b64decode(body),
            timeout=None if timeout == "None" else float(timeout),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What there is, so that requests can be nearly right."""

    handles: Mapping[str, Sequence[str]]
    """Volumes that exist, by site."""
    secrets: Mapping[str, Mapping[str, str]]
    """What each site's driver accepts."""


def attempts(known: Known) -> st.SearchStrategy[Attempt]:
    """Draw calls of every kind; most of them are nearly right."""
    # all strategies are made once: to make them anew at each draw takes most of the time
    sites = sorted(known.handles)
    asked = {site: _asked(known, site) for site in sites}
    return _often(
        (12, st.sampled_from(sites).flatmap(asked.__getitem__)),
        (1, _others(sites)),
    )


def _asked(known: Known, site: str) -> st.SearchStrategy[Attempt]:
    """Draw one of the seven calls: a request, or what is left of one."""
    methods = st.sampled_from(METHODS)
    requests = {name: _requests(known, site, name) for name in METHODS}
    wellformed = methods.flatmap(requests.__getitem__)
    pairs = _often(
        (10, wellformed),
        (1, st.tuples(methods, st.binary(max_size=200))),
        (1, wellformed.flatmap(lambda pair: _damaged(*pair))),
    )
    return st.builds(
        lambda pair, timeout: Attempt(
            site=site, path=f"{CONTROLLER}{pair[0]}", raw=pair[1], timeout=timeout
        ),
        pairs,
        st.sampled_from(_DEADLINES),
    )


def _others(sites: Sequence[str]) -> st.SearchStrategy[Attempt]:
    """Draw calls of Identity and health, and of methods that do not exist."""
    body = st.one_of(st.just(b""), st.binary(max_size=60))
    service = st.sampled_from(("", "identity.Identity", "replication.Controller", "none"))
    check = st.builds(lambda name: b"\x0a" + bytes([len(name)]) + name.encode(), service)
    identity = st.sampled_from(_IDENTITY).map(lambda name: f"/identity.Identity/{name}")
    unknown = st.from_regex(r"/[A-Za-z.]{0,30}/[A-Za-z]{0,30}", fullmatch=True)
    pair = st.one_of(
        st.tuples(identity, body),
        st.tuples(st.just("/grpc.health.v1.Health/Check"), st.one_of(check, body)),
        st.tuples(unknown, body),
    )
    return st.builds(
        lambda site, pair, timeout: Attempt(site=site, path=pair[0], raw=pair[1], timeout=timeout),
        st.sampled_from(sites),
        pair,
        st.sampled_from(_DEADLINES),
    )


def _often(*weighted: tuple[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Draw from one of several, by weight."""
    spread = [number for number, (weight, _) in enumerate(weighted) for _ in range(weight)]
    return st.sampled_from(spread).flatmap(lambda number: weighted[number][1])


def _damaged(name: str, raw: bytes) -> st.SearchStrategy[tuple[str, bytes]]:
    """Cut a message, or change some bytes of it."""
    place = st.integers(0, len(raw))
    cut = place.map(lambda end: raw[:end])
    struck = st.builds(
        lambda at, byte: raw[:at] + bytes([byte]) + raw[at + 1 :], place, st.integers(0, 255)
    )
    longer = st.binary(max_size=20).map(lambda tail: raw + tail)
    return st.one_of(cut, struck, longer).map(lambda bytes_: (name, bytes_))


# --- the fields -------------------------------------------------------------------------------


def _requests(known: Known, site: str, name: str) -> st.SearchStrategy[tuple[str, bytes]]:
    """Draw a well-formed message of one call, with whatever its fields may hold."""
    kind: Callable[..., Any] = getattr(pb, f"{name}Request")
    fields: Mapping[str, Any] = getattr(kind, "DESCRIPTOR").fields_by_name  # noqa: B009 - untyped
    handle = _handles(known.handles[site])
    drawn = {
        "replication_source": _sources(handle),
        "volume_id": _often((6, st.just("")), (1, handle)),
        "secrets": _secrets(known.secrets[site]),
        "parameters": _parameters(),
        "replication_id": _often((4, st.just("")), (1, _texts())),
        "force": st.booleans(),
    }
    chosen = {key: each for key, each in drawn.items() if key in fields}
    return st.fixed_dictionaries(chosen).map(
        lambda values: (name, kind(**values).SerializeToString())
    )


def _sources(handle: st.SearchStrategy[str]) -> st.SearchStrategy[pb.ReplicationSource | None]:
    source = pb.ReplicationSource
    volume = handle.map(lambda text: source(volume=source.VolumeSource(volume_id=text)))
    group = handle.map(
        lambda text: source(volumegroup=source.VolumeGroupSource(volume_group_id=text))
    )
    return _often((10, volume), (1, group), (1, st.none()))


def _texts() -> st.SearchStrategy[str]:
    """Draw texts: short, of any characters, with NUL, and very long."""
    huge = st.builds(
        lambda char, length: char * length,
        st.sampled_from("a0-\0é漢💥\n'\""),
        st.sampled_from((300, 5_000, 70_000)),
    )
    return _often((8, st.text(max_size=60)), (1, huge))


def _handles(existing: Sequence[str]) -> st.SearchStrategy[str]:
    """Draw handles: real ones, near misses, and anything."""
    real = st.sampled_from(existing)
    near = real.flatmap({handle: _near_misses(handle) for handle in existing}.__getitem__)
    too_large = st.just("0" * _TOO_LARGE)
    return _often((60, real), (40, near), (20, _texts()), (1, too_large))


def _near_misses(handle: str) -> st.SearchStrategy[str]:
    """Draw handles that differ from a real one in one place, or in one part."""
    head, pool, uuid = handle[:-54], handle[-53:-37], handle[-36:]
    place = st.integers(0, len(handle) - 1)
    char = st.one_of(st.sampled_from("-0fFgG \0é\n１"), st.characters(codec="utf-8"))
    return st.one_of(
        place.map(lambda at: handle[:at] + handle[at + 1 :]),
        st.builds(lambda at, new: handle[:at] + new + handle[at + 1 :], place, char),
        st.builds(lambda at, new: handle[:at] + new + handle[at:], place, char),
        st.uuids().map(lambda other: f"{head}-{pool}-{other}"),
        st.integers(0, 2**64 - 1).map(lambda other: f"{head}-{other:016x}-{uuid}"),
        st.integers(0, 9).map(lambda other: f"{head}-{other:016x}-{uuid}"),
        st.text(max_size=70).map(
            lambda name: f"0001-{len(name.encode()):04x}-{name}-{pool}-{uuid}"
        ),
        st.sampled_from((handle.upper(), f" {handle}", f"{handle}\n", handle * 2)),
    )


def _parameters() -> st.SearchStrategy[dict[str, str]]:
    """Draw class parameters: known keys with any value, and unknown keys."""
    pairs = {
        name: st.tuples(st.just(name), st.one_of(st.sampled_from(some), _texts()))
        for name, some in PARAMETERS.items()
    }
    pair = st.sampled_from(sorted(pairs)).flatmap(pairs.__getitem__)
    some = st.lists(pair, max_size=2).map(dict)
    stranger = st.dictionaries(_texts(), _texts(), min_size=1, max_size=2)
    both = st.builds(lambda one, other: {**one, **other}, some, stranger)
    return _often((4, st.just({})), (8, some), (1, both))


def _secrets(good: Mapping[str, str]) -> st.SearchStrategy[dict[str, str]]:
    """Draw secrets: mostly the right ones, else absent, wrong, or no keys at all."""
    wrong = base64.b64encode(struct.pack("<HIIH", 1, 0, 0, 16) + bytes(range(16))).decode()
    key = st.one_of(
        st.sampled_from(("", wrong, wrong[:-1], "not base64!", "ключ", good["userKey"][:-4])),
        _texts(),
    )
    user = st.one_of(st.sampled_from(("", "nobody", f"client.{good['userID']}", "a b")), _texts())
    right = st.just(dict(good))
    return _often(
        (24, right),
        (2, key.map(lambda text: {**good, "userKey": text})),
        (2, user.map(lambda text: {**good, "userID": text})),
        (1, st.just({"userID": good["userID"]})),
        (1, st.just({})),
        (1, st.just({**good, "userKey": f" {good['userKey']}\n"})),
        (1, st.dictionaries(_texts(), _texts(), max_size=2)),
    )
