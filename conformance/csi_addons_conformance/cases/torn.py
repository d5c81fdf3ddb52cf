# SPDX-License-Identifier: Apache-2.0
"""Images that librbd left torn in the middle of a promotion or demotion, and what would tear one.

They are made as librbd leaves them that is killed at that point: see each helper.
"""

import json
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import rados
import rbd

from csi_addons_conformance.case import (
    BOTH,
    SNAPSHOT,
    Kind,
    UnmetError,
    case,
    expect,
    poll,
    require,
    settle,
)
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage
from lab import Volume

_MIRROR, _DEMOTED = 3, 1
_UNLIMITED = (1 << 64) - 1
_FOLLOWS = 90
_AT_ONCE = 10


@case(
    "torn/read-only",
    kind=Kind.SAFETY,
    row="Torn (mirror info says primary, the feature NON_PRIMARY is set) → Enable, Resync "
    "FAILED_PRECONDITION; info OK with status ERROR; Promote makes it primary and writable; "
    "Demote completes the demotion",
    modes=SNAPSHOT,
)
def read_only(stage: Stage) -> None:
    """No call takes it for a primary; promoted it can be written, demoted the peer takes over."""
    volume, here = stage.mirrored(), stage.here
    _make_read_only(here, volume)
    for mode in ("snapshot", "journal"):
        expect(here.client.enable(volume.handle, mirroringMode=mode), "FAILED_PRECONDITION")
    expect(here.client.resync(volume.handle, force=True), "FAILED_PRECONDITION")
    _require_error(here, volume)
    settle(partial(here.client.promote, volume.handle))
    here.write(volume, b"written after the promotion")
    _make_read_only(here, volume)
    stage.move(here, stage.there, volume)
    came = stage.there.read(volume, 7)
    require(came == b"written", "what was written on dr1", came)
    stage.there.write(volume, b"again")


@case(
    "torn/read-only-forced",
    kind=Kind.SAFETY,
    row="Torn → Promote with force: under the evidence of a forced promotion of a last primary",
    modes=SNAPSHOT,
)
def read_only_forced(stage: Stage) -> None:
    """It is primary and writable at once, and the peer goes on to follow."""
    volume, here = stage.mirrored(), stage.here
    _make_read_only(here, volume)
    settle(partial(here.client.promote, volume.handle, force=True))
    here.write(volume, b"forced")
    here.take_mirror_snapshot(volume)
    poll(
        lambda: stage.there.read(volume, 6) == b"forced",
        seconds=_FOLLOWS,
        what="dr2 has what was written",
    )


@case(
    "torn/read-only-disabled",
    kind=Kind.SAFETY,
    row="Torn → Disable brings it to one of the two sides first, or refuses",
    modes=SNAPSHOT,
)
def read_only_disabled(stage: Stage) -> None:
    """Mirrored no longer, it can be written; also where another tool left it read-only."""
    volume, here = stage.mirrored(), stage.here
    _make_read_only(here, volume)
    expect(here.client.disable(volume.handle), "OK")
    require(not here.mirrored(volume), "a volume that is not mirrored", "a mirrored one")
    here.write(volume, b"not mirrored")
    _make_read_only(here, volume)
    expect(here.client.enable(volume.handle, mirroringMode="snapshot"), "FAILED_PRECONDITION")
    settle(partial(here.client.disable, volume.handle))
    here.write(volume, b"once more")


@case(
    "torn/demotion",
    kind=Kind.SAFETY,
    row="Torn (the demotion is not written to the end, so that no peer gets it) → Demote completes "
    "the demotion; info OK with status ERROR; Resync FAILED_PRECONDITION",
    modes=BOTH,
    alone=True,
)
def demotion(stage: Stage) -> None:
    """Demoted once more, the peer is promoted without force, and has everything."""
    volume, here = stage.mirrored(), stage.here
    here.write(volume, b"the last write")
    cut_demotion_short(stage, volume, early=True)
    _require_error(here, volume)
    expect(here.client.resync(volume.handle, force=True), "FAILED_PRECONDITION")
    stage.move(here, stage.there, volume)
    came = stage.there.read(volume, 14)
    require(came == b"the last write", "the last write on dr2", came)
    poll(lambda: here.state(volume) == "up+replaying", seconds=_FOLLOWS, what="dr1 follows dr2")


@case(
    "torn/demotion-promoted",
    kind=Kind.SAFETY,
    row="Torn (the demotion is not written to the end) → Promote makes it primary and writable",
    modes=BOTH,
    alone=True,
    tags=("long",),
)
def demotion_promoted(stage: Stage) -> None:
    """Promoted without force, since no peer can have been primary; the peer follows it."""
    volume, here = stage.mirrored(), stage.here
    cut_demotion_short(stage, volume, early=False)
    settle(partial(here.client.promote, volume.handle))
    here.write(volume, b"goes on")
    if stage.mode == "snapshot":
        here.take_mirror_snapshot(volume)
    poll(
        lambda: stage.there.read(volume, 7) == b"goes on",
        seconds=_FOLLOWS,
        what="dr2 has what was written",
    )


@case(
    "torn/demotion-promoted-early",
    kind=Kind.SAFETY,
    row="Torn (the demotion is not written to the end) → Promote makes it primary under the "
    "evidence that a promotion of a last primary needs; Demote completes the demotion",
    modes=SNAPSHOT,
    alone=True,
    tags=("long",),
)
def demotion_promoted_early(stage: Stage) -> None:
    """Where not even the image's state stands beside the snapshot, the peer follows no more.

    So nothing tells whether it was primary since. Demoted and promoted, it comes home unforced.
    """
    volume, client = stage.mirrored(), stage.here.client
    cut_demotion_short(stage, volume, early=True)
    expect(client.promote(volume.handle), "ABORTED", saying=("demote",))
    require(not stage.here.primary(volume), "a secondary", "a primary")
    settle(partial(client.demote, volume.handle))
    settle(partial(client.promote, volume.handle))
    stage.here.write(volume, b"goes on")


# --- the snapshot limit ------------------------------------------------------------------------


@case(
    "torn/limit-demote",
    kind=Kind.SAFETY,
    row="What can refuse the demotion's snapshot is checked before anything is changed: snapshot "
    "limit reached → FAILED_PRECONDITION, naming the cause and what to change",
    modes=SNAPSHOT,
)
def limit_demote(stage: Stage) -> None:
    """It stays a primary that can be written; demoted when the limit is lifted; so when torn."""
    volume, here = stage.mirrored(), stage.here
    for torn in (False, True):
        _limit(here, volume, 0)
        if torn:
            _make_read_only(here, volume)
        answer = settle(partial(here.client.demote, volume.handle), "FAILED_PRECONDITION")
        expect(answer, "FAILED_PRECONDITION", saying=("limit",))
        if not torn:
            here.write(volume, b"still primary")
        _limit(here, volume, None)
    stage.move(here, stage.there, volume)


@case(
    "torn/quota",
    kind=Kind.SAFETY,
    row="Torn: demotion snapshot refused by a quota; what can refuse it is checked before anything "
    "is changed → FAILED_PRECONDITION, Promote UNAVAILABLE, naming the cause and what to change",
    modes=SNAPSHOT,
    alone=True,
)
def quota(stage: Stage) -> None:
    """In a pool that is full nothing is begun; with room again both sides come home."""
    volume, here = stage.mirrored(), stage.here
    with _full(here):
        answer = settle(partial(here.client.demote, volume.handle), "FAILED_PRECONDITION")
        expect(answer, "FAILED_PRECONDITION", saying=("quota",), within=_AT_ONCE)
        require(here.primary(volume), "an untouched primary", "a secondary")
        here.client.info(volume.handle)
    settle(partial(here.client.demote, volume.handle))
    poll(lambda: stage.there.state(volume) == "up+unknown", seconds=_FOLLOWS, what="all on dr2")
    with _full(stage.there):
        for force in (False, True):
            promote = partial(stage.there.client.promote, volume.handle, force=force)
            answer = settle(promote, "UNAVAILABLE")
            expect(answer, "UNAVAILABLE", saying=("quota",))
        require(not stage.there.primary(volume), "an untouched secondary", "a primary")
    settle(partial(stage.there.client.promote, volume.handle))


@contextmanager
def _full(at: SiteUnderTest) -> Iterator[None]:
    """Set a quota that is exceeded, for the length of a block."""
    site = at.site

    def flagged() -> bool:
        pools = json.loads(site.ceph("osd", "dump", "--format", "json"))["pools"]
        names = (each["flags_names"] for each in pools if each["pool_name"] == site.pool)
        return "full" in next(names).split(",")

    site.ceph("osd", "pool", "set-quota", site.pool, "max_objects", "1")
    try:
        poll(flagged, seconds=60, what="the pool is full")
        yield
    finally:
        site.ceph("osd", "pool", "set-quota", site.pool, "max_objects", "0")
        poll(lambda: not flagged(), seconds=60, what="the pool takes writes again")


@case(
    "torn/limit-promote",
    kind=Kind.SAFETY,
    row="The request cannot succeed before someone changes the image (snapshot limit reached) → "
    "Promote: UNAVAILABLE, naming the cause and what to change",
    modes=SNAPSHOT,
)
def limit_promote(stage: Stage) -> None:
    """Neither promoted nor torn, with or without force; promoted when the limit is lifted."""
    volume, there = stage.mirrored(), stage.there
    settle(partial(stage.here.client.demote, volume.handle))
    poll(lambda: there.state(volume) == "up+unknown", seconds=_FOLLOWS, what="dr2 has it all")
    _limit(there, volume, 0)
    for force in (False, True):
        answer = there.client.promote(volume.handle, force=force)
        expect(answer, "UNAVAILABLE", saying=("limit",))
        require(not there.primary(volume), "a secondary", "a primary")
    answer = settle(
        partial(there.client.disable, volume.handle, force="true"), "FAILED_PRECONDITION"
    )
    require(there.mirrored(volume), "a mirrored volume", answer)
    _limit(there, volume, None)
    settle(partial(there.client.promote, volume.handle))
    there.write(volume, b"writable")


@case(
    "torn/limit-enable",
    kind=Kind.CONTRACT,
    row="The request cannot succeed before someone changes the image (snapshot limit reached) → "
    "FAILED_PRECONDITION, naming the cause and what to change",
    modes=SNAPSHOT,
)
def limit_enable(stage: Stage) -> None:
    """Refused, and not mirrored without a first snapshot; enabled when the limit is lifted."""
    volume, here = stage.volume(), stage.here
    _limit(here, volume, 0)
    answer = here.client.enable(volume.handle, mirroringMode="snapshot")
    expect(answer, "FAILED_PRECONDITION", saying=("limit",))
    require(not here.mirrored(volume), "a volume that is not mirrored", "a mirrored one")
    _limit(here, volume, None)
    settle(partial(here.client.enable, volume.handle, mirroringMode="snapshot"))
    require(here.primary(volume), "a primary", "a secondary")


# --- how an image is torn ----------------------------------------------------------------------


def _make_read_only(site: SiteUnderTest, volume: Volume) -> None:
    """Leave it as a demotion does that is killed before its snapshot, or a promotion after."""
    flag = rbd.RBD_FEATURE_NON_PRIMARY
    _execute(site, volume, "set_features", struct.pack("<QQ", flag, flag))
    try:
        site.write(volume, b"x")
    except rbd.ReadOnlyImage:
        return
    raise UnmetError("expected a torn image that cannot be written; it can")


def _limit(site: SiteUnderTest, volume: Volume, more: int | None) -> None:
    """Allow so many snapshots more than there are; ``None`` lifts the limit."""
    with site.image(volume) as image:
        there_are = len(list(image.list_snaps()))
    limit = _UNLIMITED if more is None else there_are + more
    _execute(site, volume, "snapshot_set_limit", struct.pack("<Q", limit))


def _execute(site: SiteUnderTest, volume: Volume, method: str, request: bytes) -> None:
    with site.site.ioctx() as ioctx:
        ioctx.execute(f"rbd_header.{site.image_id(volume)}", "rbd", method, request)


def cut_demotion_short(stage: Stage, volume: Volume, *, early: bool) -> None:
    """Leave it as a demotion does that is killed between its first message and its last.

    In snapshot mode ``early`` is before the image's state is written beside the snapshot.
    """
    if stage.mode == "snapshot":
        with stage.there.frozen("rbd-mirror"):
            _cut_snapshot(stage.here, volume, early=early)
    else:
        _cut_journal(stage.here, volume)
    time.sleep(2 * stage.check_interval)
    require(not stage.here.primary(volume), "a secondary by librbd's info", "a primary")


def _cut_snapshot(site: SiteUnderTest, volume: Volume, *, early: bool) -> None:
    """Demote, and take back that the demotion's snapshot is complete."""
    with site.image(volume, writing=True) as image:
        image.mirror_image_demote()
    number = site.mirror_snapshots(volume)[-1]["id"]
    header, key = f"rbd_header.{site.image_id(volume)}", f"snapshot_{number:016x}"
    with site.site.ioctx() as ioctx:
        snapshot = _omap_value(ioctx, header, key)
        namespace = struct.pack("<IB", _MIRROR, _DEMOTED)
        require(snapshot.count(namespace + b"\1") == 1, "one complete demotion", snapshot)
        _set_omap_value(ioctx, header, key, snapshot.replace(namespace + b"\1", namespace + b"\0"))
        if early:
            ioctx.remove_object(f"rbd_mirror_snapshot.{site.image_id(volume)}.{number}.0")


def _cut_journal(site: SiteUnderTest, volume: Volume) -> None:
    """Give the journal the demotion's tag, and not the entry that comes after it."""
    name = f"journal.{site.image_id(volume)}"
    with site.site.ioctx() as ioctx:
        (number,) = struct.unpack("<Q", _omap_value(ioctx, name, "next_tag_tid"))
        newest = _omap_value(ioctx, name, f"tag_{number - 1:016x}")
        tag_class = newest[14:22]  # behind the structure's head, and the number
        orphan = b"<orphan>"
        data = struct.pack("<I", len(orphan)) + orphan + struct.pack("<I", 0)
        data += struct.pack("<BQQ", 1, number - 1, 0)
        request = struct.pack("<Q", number) + tag_class + struct.pack("<I", len(data)) + data
        ioctx.execute(name, "journal", "tag_create", request)


def _omap_value(ioctx: rados.Ioctx, name: str, key: str) -> bytes:
    with rados.ReadOpCtx() as operation:
        entries, _ = ioctx.get_omap_vals_by_keys(operation, (key,))
        ioctx.operate_read_op(operation, name)
        return dict(entries)[key]


def _set_omap_value(ioctx: rados.Ioctx, name: str, key: str, value: bytes) -> None:
    with rados.WriteOpCtx() as operation:
        ioctx.set_omap(operation, (key,), (value,))
        ioctx.operate_write_op(operation, name)


def _require_error(site: SiteUnderTest, volume: Volume) -> None:
    """Ask for the health of a torn image."""
    answer = site.client.info(volume.handle)
    expect(answer, "OK")
    require(
        answer.response.Status.Name(answer.response.status) == "ERROR",
        "status ERROR",
        answer,
    )
