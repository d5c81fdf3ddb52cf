# SPDX-License-Identifier: Apache-2.0
"""The calls of a soak: what a controller asks all day, and about a fifth that must fail.

Each caller has volumes of its own, so that what must come is known: nobody else changes them.
"""

import base64
import random
import struct
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from csi_addons_conformance._proto import replication_pb2 as pb
from csi_addons_conformance.case import PASSING
from csi_addons_conformance.client import Answer, Client
from csi_addons_conformance.sites import SiteUnderTest
from lab import Volume

_DEADLINE: Final = 60
"""Seconds of a call, unless it is one whose deadline is over at once."""
_AT_ONCE: Final = 0.002
_SETTLED: Final = 150
"""Seconds within which a planned failover must be over, however often it is asked for."""
_HEALTHY: Final = pb.GetVolumeReplicationInfoResponse.HEALTHY
_WRONG_KEY: Final = base64.b64encode(struct.pack("<HIIH", 1, 0, 0, 16) + bytes(range(16))).decode()
_GROUP: Final = pb.ReplicationSource(
    volumegroup=pb.ReplicationSource.VolumeGroupSource(volume_group_id="0001-group")
)


class StuckError(Exception):
    """A planned failover did not come to its end."""


@dataclass(slots=True, kw_only=True)
class Subject:
    """One mirrored volume, and what is known of it."""

    volume: Volume
    parameters: dict[str, str]
    """Of its class: mode and schedule."""
    primary: int = 0
    """0 or 1: the site on which it is primary."""
    followed: bool = False
    """Whether the other site was seen to follow; until then nothing is asked of it.

    Mirroring switched off before the old primary follows the new one leaves an orphan there.
    """

    @property
    def handle(self) -> str:
        """The volume's handle, which both sites know."""
        return self.volume.handle


@dataclass(frozen=True, slots=True, kw_only=True)
class Props:
    """Volumes that calls must fail on; all callers share them."""

    held: Sequence[str]
    """Handles of primaries that a writer has open."""
    plain: str
    """The handle of a volume that is not mirrored."""


class Caller:
    """Makes one call after the other, by chance.

    Args:
        sites: Both of them.
        subjects: The volumes that only this caller asks about.
        props: Volumes on which calls must fail.
        chance: Where everything random comes from.
    """

    def __init__(
        self,
        sites: Sequence[SiteUnderTest],
        subjects: Sequence[Subject],
        props: Props,
        chance: random.Random,
    ) -> None:
        self.sites, self.subjects, self.props, self.chance = sites, subjects, props, chance
        self.subject = subjects[0]

    @property
    def here(self) -> Client:
        """The driver where the subject is primary."""
        return self.sites[self.subject.primary].client

    @property
    def there(self) -> Client:
        """The driver where it is secondary."""
        return self.sites[1 - self.subject.primary].client

    @property
    def anywhere(self) -> Client:
        """Either of them."""
        return self.chance.choice(self.sites).client

    def turn(self) -> "tuple[Kind, Iterator[Answer]]":
        """Choose a volume and what to ask about it; the calls are made as they are taken."""
        self.subject = self.chance.choice(self.subjects)
        while True:
            (kind,) = self.chance.choices(KINDS, WEIGHTS)
            if self.subject.followed or not kind.needs_copy:
                return kind, kind.act(self)

    def ask(self, client: Client, method: str, handle: str = "", **fields: Any) -> Answer:
        """Make one call, about the subject unless another handle is given."""
        fields.setdefault("timeout", _DEADLINE)
        return client.call(method, handle or self.subject.handle, **fields)

    def until_ok(self, client: Client, method: str) -> Iterator[Answer]:
        """Repeat a call as the controller does, until it is answered OK."""
        deadline = time.monotonic() + _SETTLED
        while True:
            answer = self.ask(client, method, parameters=self.subject.parameters)
            yield answer
            if answer.code == "OK":
                return
            if answer.code not in PASSING or time.monotonic() > deadline:
                raise StuckError(f"{self.subject.handle}: {answer}")


Act: TypeAlias = Callable[[Caller], Iterator[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One thing that callers do."""

    name: str
    weight: float
    codes: frozenset[str]
    """What may come."""
    fails: bool
    """Whether it is there to fail."""
    needs_copy: bool
    act: Act


_kinds: list[Kind] = []


def _kind(
    weight: float, *codes: str, fails: bool = False, needs_copy: bool = False
) -> Callable[[Act], Act]:
    """Register what callers do: how often of 1000 times, and the codes that may come."""

    def register(act: Act) -> Act:
        _kinds.append(
            Kind(
                name=act.__name__.replace("_", " "),
                weight=weight,
                codes=frozenset(codes),
                fails=fails,
                needs_copy=needs_copy,
                act=act,
            )
        )
        return act

    return register


# --- what a controller asks all day -------------------------------------------------------------


@_kind(280, "OK", "NOT_FOUND")
def info(caller: Caller) -> Iterator[Answer]:
    """Ask the primary how far its copy has come; NOT_FOUND until it has come anywhere."""
    subject = caller.subject
    answer = caller.ask(caller.here, "GetVolumeReplicationInfo")
    healthy = answer.code == "OK" and answer.response.status == _HEALTHY
    subject.followed = subject.followed or healthy
    yield answer


@_kind(160, "OK", needs_copy=True)
def destination(caller: Caller) -> Iterator[Answer]:
    """Ask either site where the volume is mirrored to."""
    yield caller.ask(caller.anywhere, "GetReplicationDestinationInfo")


@_kind(70, "OK")
def enable_again(caller: Caller) -> Iterator[Answer]:
    """Enable what is enabled."""
    yield caller.ask(caller.here, "EnableVolumeReplication", parameters=caller.subject.parameters)


@_kind(60, "OK")
def promote_again(caller: Caller) -> Iterator[Answer]:
    """Promote the primary."""
    yield caller.ask(caller.here, "PromoteVolume", parameters=caller.subject.parameters)


@_kind(60, "OK", needs_copy=True)
def demote_again(caller: Caller) -> Iterator[Answer]:
    """Demote the secondary."""
    yield caller.ask(caller.there, "DemoteVolume")


@_kind(40, "OK", *PASSING, needs_copy=True)
def resync_healthy(caller: Caller) -> Iterator[Answer]:
    """Resync a secondary that follows, which is left alone."""
    yield caller.ask(caller.there, "ResyncVolume")


@_kind(20, "OK", "FAILED_PRECONDITION", needs_copy=True)
def disable_secondary(caller: Caller) -> Iterator[Answer]:
    """Disable the secondary of a live primary: it goes with that one, and not before."""
    yield caller.ask(caller.there, "DisableVolumeReplication")


@_kind(90, "OK")
def probe(caller: Caller) -> Iterator[Answer]:
    """Ask whether a driver is ready."""
    yield caller.anywhere.probe()


@_kind(2, "OK", *PASSING, needs_copy=True)
def fail_over(caller: Caller) -> Iterator[Answer]:
    """Fail over as planned."""
    subject = caller.subject
    yield from caller.until_ok(caller.here, "DemoteVolume")
    yield from caller.until_ok(caller.there, "PromoteVolume")
    subject.primary, subject.followed = 1 - subject.primary, False


@_kind(1, "OK", *PASSING, needs_copy=True)
def begin_anew(caller: Caller) -> Iterator[Answer]:
    """Switch mirroring off and on: the copy is deleted and made again."""
    yield from caller.until_ok(caller.here, "DisableVolumeReplication")
    caller.subject.followed = False
    yield from caller.until_ok(caller.here, "EnableVolumeReplication")


# --- what must fail -----------------------------------------------------------------------------


@_kind(30, "UNAUTHENTICATED", fails=True)
def wrong_key(caller: Caller) -> Iterator[Answer]:
    """Bring a key that cephx refuses."""
    client = caller.anywhere
    secrets = client.secrets | {"userKey": _WRONG_KEY}
    yield caller.ask(client, "GetVolumeReplicationInfo", secrets=secrets)


@_kind(20, "UNAUTHENTICATED", fails=True)
def no_secrets(caller: Caller) -> Iterator[Answer]:
    """Bring no secrets."""
    yield caller.ask(caller.anywhere, "PromoteVolume", secrets={})


@_kind(30, "NOT_FOUND", fails=True)
def unknown_volume(caller: Caller) -> Iterator[Answer]:
    """Ask about a volume that does not exist."""
    handle = f"{caller.subject.handle[:-36]}{uuid.UUID(int=caller.chance.getrandbits(128))}"
    yield caller.ask(caller.anywhere, "DisableVolumeReplication", handle)


@_kind(30, "INVALID_ARGUMENT", fails=True)
def malformed_handle(caller: Caller) -> Iterator[Answer]:
    """Ask about what is no volume handle."""
    yield caller.ask(caller.anywhere, "DemoteVolume", caller.subject.handle[1:])


@_kind(20, "INVALID_ARGUMENT", fails=True)
def bad_parameter(caller: Caller) -> Iterator[Answer]:
    """Ask for an interval that is none."""
    parameters = {"schedulingInterval": "often"}
    yield caller.ask(caller.anywhere, "EnableVolumeReplication", parameters=parameters)


@_kind(20, "UNAVAILABLE", fails=True)
def unknown_cluster(caller: Caller) -> Iterator[Answer]:
    """Ask about a cluster that is not configured."""
    handle = f"0001-0004-none-{1:016x}-{caller.subject.volume.uuid}"
    yield caller.ask(caller.anywhere, "ResyncVolume", handle)


@_kind(10, "UNIMPLEMENTED", fails=True)
def group(caller: Caller) -> Iterator[Answer]:
    """Ask about a group of volumes."""
    yield caller.ask(caller.anywhere, "PromoteVolume", replication_source=_GROUP)


@_kind(20, "FAILED_PRECONDITION", fails=True, needs_copy=True)
def info_on_secondary(caller: Caller) -> Iterator[Answer]:
    """Ask the secondary how far its copy has come."""
    yield caller.ask(caller.there, "GetVolumeReplicationInfo")


@_kind(10, "FAILED_PRECONDITION", fails=True)
def not_mirrored(caller: Caller) -> Iterator[Answer]:
    """Demote what is not mirrored."""
    yield caller.ask(caller.sites[0].client, "DemoteVolume", caller.props.plain)


@_kind(20, "DEADLINE_EXCEEDED", "OK", fails=True, needs_copy=True)
def deadline_over(caller: Caller) -> Iterator[Answer]:
    """Give a call no time; it may be answered all the same."""
    method = caller.chance.choice(("GetVolumeReplicationInfo", "GetReplicationDestinationInfo"))
    yield caller.ask(caller.here, method, timeout=_AT_ONCE)


@_kind(8, "FAILED_PRECONDITION", *PASSING, fails=True)
def demote_held(caller: Caller) -> Iterator[Answer]:
    """Demote under a writer."""
    yield caller.ask(
        caller.sites[0].client, "DemoteVolume", caller.chance.choice(caller.props.held)
    )


@_kind(1, "FAILED_PRECONDITION", *PASSING, fails=True, needs_copy=True)
def promote_second(caller: Caller) -> Iterator[Answer]:
    """Promote the secondary of a live primary."""
    yield caller.ask(caller.there, "PromoteVolume")


KINDS: Final = tuple(_kinds)
WEIGHTS: Final = tuple(kind.weight for kind in KINDS)
