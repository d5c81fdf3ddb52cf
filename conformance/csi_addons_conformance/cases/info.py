# SPDX-License-Identifier: Apache-2.0
"""GetVolumeReplicationInfo."""

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from csi_addons_conformance.case import SNAPSHOT, Kind, case, expect, poll, require, settle
from csi_addons_conformance.cases.promote import accepts
from csi_addons_conformance.client import Answer
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage
from lab import LabError, Volume
from lab.site import driver_caps
from lab.volumes import handle_of

_QUICKLY = 5
"""Seconds within which a call that takes no lock is answered beside any other."""
_WRITTEN = 1 << 20
_SILENT = 50
"""Seconds of silence after which an age by the newest status alone is wrong."""
_SLACK = 8
_INTERVAL = 60
"""Seconds of the schedule whose copy grows too old."""


# --- what has no answer ----------------------------------------------------------------------


@case(
    "info/not-enabled",
    kind=Kind.SPEC,
    row="Not enabled → FAILED_PRECONDITION",
    modes=SNAPSHOT,
)
def not_enabled(stage: Stage) -> None:
    """A volume that is not mirrored has no replication to tell of."""
    expect(stage.here.client.info(stage.volume().handle), "FAILED_PRECONDITION")


@case(
    "info/not-primary",
    kind=Kind.SPEC,
    row="Not primary → FAILED_PRECONDITION",
)
def not_primary(stage: Stage) -> None:
    """On the site of the copy it is FAILED_PRECONDITION; on both sites once it was demoted."""
    volume = stage.mirrored()
    expect(stage.there.client.info(volume.handle), "FAILED_PRECONDITION")
    settle(lambda: stage.here.client.demote(volume.handle))
    for site in (stage.here, stage.there):
        expect(site.client.info(volume.handle), "FAILED_PRECONDITION")


@case(
    "info/never-synced",
    kind=Kind.SPEC,
    row="Never synced → NOT_FOUND (the controller then keeps what it had)",
)
def never_synced(stage: Stage) -> None:
    """Right after Enable it is NOT_FOUND, then OK; and so again after Disable and Enable."""
    volume = stage.mirrored()
    for _ in range(2):
        expect(stage.here.client.disable(volume.handle), "OK")
        poll(lambda: not stage.there.exists(volume), seconds=90, what="the copy on dr2 goes")
        began = int(time.time())
        expect(stage.here.client.enable(volume.handle, mirroringMode=stage.mode), "OK")
        expect(stage.here.client.info(volume.handle), "NOT_FOUND")
        synced = _await_first_sync(stage.here, volume)
        require(synced >= began, f"a time since Enable, {began}", synced)


def _await_first_sync(site: SiteUnderTest, volume: Volume) -> int:
    """Ask until there is a time, and return it; NOT_FOUND until then."""

    def told() -> int:
        answer = site.client.info(volume.handle)
        expect(answer, "OK", "NOT_FOUND")
        return int(answer.response.last_sync_time.seconds) if answer.code == "OK" else 0

    return poll(told, seconds=90, what="the first copy is told of")


@case(
    "info/no-peer",
    kind=Kind.SPEC,
    row="No peer configured → NOT_FOUND",
    alone=True,
)
def no_peer(stage: Stage) -> None:
    """In a pool that is mirrored, but has no peer, it is NOT_FOUND."""
    site, pool = stage.here.site, f"no-peer-{stage.mode}"
    with stage.here.extra_pool(pool):
        site.rbd("mirror", "pool", "enable", pool, "image")
        moved = stage.volume()
        site.rbd("create", f"{pool}/{moved.image}", "--size", "8M")
        pools = json.loads(site.ceph("osd", "lspools", "--format", "json"))
        number = next(each["poolnum"] for each in pools if each["poolname"] == pool)
        handle = handle_of(site, moved.uuid).replace(f"{site.pool_id:016x}", f"{number:016x}")
        client = stage.here.client_of(f"user-of-{pool}", driver_caps(pool))
        expect(client.enable(handle, mirroringMode=stage.mode), "OK")
        expect(client.info(handle), "NOT_FOUND")
        expect(client.disable(handle), "OK")
        site.rbd("mirror", "pool", "disable", pool)


# --- health ----------------------------------------------------------------------------------


@case(
    "info/healthy",
    kind=Kind.SPEC,
    row="Snapshot mode: last_sync_time, bytes and seconds of the last snapshot; journal mode: the "
    "time of the newest status whose positions are equal; HEALTHY; status_message always says why "
    "in plain words, lag included",
)
def healthy(stage: Stage) -> None:
    """HEALTHY, with the time of the last sync, which moves on, and the lag in words."""
    volume = stage.mirrored()
    first = _await_status(stage.here, volume, "HEALTHY").response
    require(re.search(r"\d", first.status_message), "the lag in words", first.status_message)
    stage.here.write(volume, os.urandom(_WRITTEN))
    if stage.mode == "snapshot":
        stage.here.take_mirror_snapshot(volume)

    def moved() -> Any:
        response = _info(stage.here, volume).response
        newer = response.last_sync_time.seconds > first.last_sync_time.seconds
        # the bytes of a snapshot may be told a little later than its time
        told = stage.mode == "journal" or response.last_sync_bytes >= _WRITTEN
        return response if newer and told else None

    second = poll(moved, seconds=90, what="a later last_sync_time, and the bytes of that snapshot")
    if stage.mode == "snapshot":
        require(second.HasField("last_sync_duration"), "the seconds of the last snapshot", second)
    later = second.last_sync_time.seconds - time.time()
    require(later < 2, "a time that is not in the future", f"{later:.0f} s ahead")


@case(
    "info/split-brain",
    kind=Kind.SPEC,
    row="A site in error or split-brain is an OK with status ERROR and the last known sync time, "
    "never a NOT_FOUND that leaves a false green",
)
def split_brain(stage: Stage) -> None:
    """The primary's site tells of its split-brain: OK, ERROR, and the time known before it."""
    volume = stage.mirrored()
    known = _info(stage.here, volume).response.last_sync_time.seconds
    tear(stage, volume)
    told = _await_status(stage.here, volume, "ERROR").response
    synced = told.last_sync_time.seconds
    require(synced >= known > 0, f"the time known before, {known}, or a later one", synced)
    require(told.status_message, "why, in words", "nothing")


@case(
    "info/daemons-down",
    kind=Kind.CONTRACT,
    row="DEGRADED: a daemon down or stale; the last known sync time is recorded as .rbd metadata",
    alone=True,
    tags={"long"},
)
def daemons_down(stage: Stage) -> None:
    """DEGRADED, naming rbd-mirror, while either is dead; HEALTHY again when it is back."""
    volume = stage.mirrored()
    known = _await_status(stage.here, volume, "HEALTHY").response.last_sync_time.seconds
    for site in (stage.there, stage.here):
        with site.without("rbd-mirror"):
            told = _await_status(stage.here, volume, "DEGRADED").response
            require("rbd-mirror" in told.status_message, "rbd-mirror", told.status_message)
            synced = told.last_sync_time.seconds
            require(synced >= known, f"the time known before, {known}, or a later one", synced)
        _await_status(stage.here, volume, "HEALTHY")


@case(
    "info/known-after-restart",
    kind=Kind.CONTRACT,
    row="ERROR and the last known sync time (recorded as .rbd metadata by writing calls and the "
    "schedule keeper)",
    alone=True,
)
def known_after_restart(stage: Stage) -> None:
    """A driver that was killed still knows the time that was known before a split-brain."""
    volume = stage.mirrored()
    known = _info(stage.here, volume).response.last_sync_time.seconds
    # writing calls, which may record what they see
    expect(stage.here.client.enable(volume.handle, mirroringMode=stage.mode), "OK")
    expect(stage.here.client.promote(volume.handle), "OK")
    tear(stage, volume)
    _await_status(stage.here, volume, "ERROR")
    stage.here.restart_driver()
    told = _await_status(stage.here, volume, "ERROR").response
    synced = told.last_sync_time.seconds
    require(synced >= known, f"the time known before, {known}, or a later one", synced)


@case(
    "info/old-copy",
    kind=Kind.CONTRACT,
    row="DEGRADED: the copy older than twice the interval",
    modes=SNAPSHOT,
)
def old_copy(stage: Stage) -> None:
    """When no snapshot comes for two intervals it is DEGRADED, and the message tells the age."""
    volume = stage.mirrored(schedulingInterval="1m")

    def told() -> bool:
        # whoever puts the schedule back: no snapshot comes of it
        stage.here.remove_schedules(volume)
        response = _info(stage.here, volume).response
        ages = [int(number) for number in re.findall(r"\d+", response.status_message)]
        degraded = response.status == response.DEGRADED
        return degraded and any(2 * _INTERVAL <= age < 10 * _INTERVAL for age in ages)

    poll(told, seconds=240, what=f"DEGRADED, and an age of {2 * _INTERVAL} s or more in words")


@case(
    "info/both-daemons-down",
    kind=Kind.CONTRACT,
    row="The age is told from the newest evidence there is, also when both daemons are dead",
    modes=SNAPSHOT,
    alone=True,
    tags={"long"},
)
def both_daemons_down(stage: Stage) -> None:
    """With both rbd-mirrors dead the copy grows older in words, also for a new driver."""
    volume = stage.mirrored()
    with stage.here.without("rbd-mirror"), stage.there.without("rbd-mirror"):
        time.sleep(_SILENT)
        _require_true_age(stage.here, volume)
        stage.here.restart_driver()
        _require_true_age(stage.here, volume)


def _require_true_age(site: SiteUnderTest, volume: Volume) -> None:
    response = _await_status(site, volume, "DEGRADED").response
    age = time.time() - response.last_sync_time.seconds
    told = [int(number) for number in re.findall(r"\d+", response.status_message)]
    close = any(abs(each - age) <= _SLACK for each in told)
    require(close, f"a copy that is {age:.0f} s old", response.status_message)


@case(
    "info/two-primaries",
    kind=Kind.SPEC,
    row="ERROR: a peer that reads primary beside this primary; OK with the last known sync time, "
    "never a NOT_FOUND that leaves a false green",
)
def two_primaries(stage: Stage) -> None:
    """After a forced promotion both sites soon tell ERROR, and until when they were the same."""
    volume = stage.mirrored()
    known = _info(stage.here, volume).response.last_sync_time.seconds
    settle(lambda: stage.there.client.promote(volume.handle, force=True))
    for site in (stage.here, stage.there):

        def told(site: SiteUnderTest = site) -> Any:
            response = _info(site, volume).response
            return response if response.status == response.ERROR else None

        response = poll(told, seconds=60, what=f"ERROR on {site.name}, beside another primary")
        since = response.last_sync_time.seconds
        require(since >= known - _SLACK, f"the time known before, {known}, or later", since)
        require("primary" in response.status_message, "why, in words", response.status_message)


@case(
    "info/roles-change",
    kind=Kind.SPEC,
    row="What is known of an earlier term as primary is forgotten at every change of role. After "
    "an unforced promotion both sides were equal at the demotion: that moment is the last sync "
    "until a newer one is known",
)
def roles_change(stage: Stage) -> None:
    """There and back as planned: never a sync before the demotion, never ERROR; then HEALTHY."""
    volume = stage.mirrored()
    for old, new in ((stage.here, stage.there), (stage.there, stage.here)):
        began = int(time.time())
        stage.move(old, new, volume)

        def healthy_again(new: SiteUnderTest = new, began: int = began) -> bool:
            response = _info(new, volume).response
            since = response.last_sync_time.seconds
            require(since >= began, f"the demotion, {began}, or a later time", since)
            failed = response.status == response.ERROR
            require(not failed, "no ERROR", response.status_message)
            return bool(response.status == response.HEALTHY)

        poll(healthy_again, seconds=90, what=f"HEALTHY on {new.name}")


@case(
    "info/roles-changed-by-others",
    kind=Kind.SPEC,
    row="What is known of an earlier term as primary is forgotten at every change of role",
)
def roles_changed_by_others(stage: Stage) -> None:
    """There and back with the rbd command: a time of before the demotion is never told again."""
    volume = stage.mirrored()
    for old, new in ((stage.here, stage.there), (stage.there, stage.here)):
        began = int(time.time())
        _move_past_the_driver(old, new, volume)

        def healthy_again(new: SiteUnderTest = new, began: int = began) -> bool:
            answer = new.client.info(volume.handle)
            expect(answer, "OK", "NOT_FOUND")
            if answer.code == "NOT_FOUND":
                return False
            since = answer.response.last_sync_time.seconds
            require(since >= began, f"the demotion, {began}, or a later time", since)
            return bool(answer.response.status == answer.response.HEALTHY)

        poll(healthy_again, seconds=90, what=f"HEALTHY on {new.name}")


def _move_past_the_driver(old: SiteUnderTest, new: SiteUnderTest, volume: Volume) -> None:
    poll(
        lambda: new.state(volume) == "up+replaying", seconds=90, what=f"{new.name} follows, to move"
    )
    image = f"{old.site.pool}/{volume.image}"
    old.site.rbd("mirror", "image", "demote", image)

    def promoted() -> bool:
        try:
            new.site.rbd("mirror", "image", "promote", image)
        except LabError:  # the last data is still coming
            return False
        return True

    poll(promoted, seconds=90, what=f"{new.name} can be promoted")


# --- beside other calls ----------------------------------------------------------------------


@case(
    "info/beside-operations",
    kind=Kind.CONTRACT,
    row="Takes no lock, works during promote and demote",
)
def beside_operations(stage: Stage) -> None:
    """While a promotion or a demotion runs it is answered quickly, and is never ABORTED."""
    volume = stage.mirrored()
    calls = (
        (stage.there, lambda: stage.there.client.promote(volume.handle)),
        (stage.here, lambda: settle(lambda: stage.here.client.demote(volume.handle))),
        (stage.there, lambda: settle(lambda: stage.there.client.promote(volume.handle))),
    )
    with ThreadPoolExecutor(1) as executor:
        for site, call in calls:
            running = executor.submit(call)
            while not running.done():
                answer = site.client.info(volume.handle)
                expect(answer, "OK", "FAILED_PRECONDITION", "NOT_FOUND", within=_QUICKLY)
            running.result()


@case(
    "info/changes-nothing",
    kind=Kind.SAFETY,
    row="Changes nothing on the image, takes no lock",
)
def changes_nothing(stage: Stage) -> None:
    """After several calls on both sites images, metadata, snapshots and schedules are as before."""
    volume = stage.mirrored(schedulingInterval="1h")
    sites = (stage.here, stage.there)
    before = [_facts(site, volume) for site in sites]
    for _ in range(5):
        for site in sites:
            site.client.info(volume.handle)
    after = [_facts(site, volume) for site in sites]
    require(after == before, str(before), after)


# --- facts -----------------------------------------------------------------------------------


def _info(site: SiteUnderTest, volume: Volume) -> Answer:
    answer = site.client.info(volume.handle)
    expect(answer, "OK")
    return answer


def _await_status(site: SiteUnderTest, volume: Volume, status: str) -> Answer:
    """Ask until the status is told; every answer until then must be OK, too."""
    came = []

    def told() -> bool:
        came.append(_info(site, volume))
        response = came[-1].response
        return bool(response.Status.Name(response.status) == status)

    poll(told, seconds=150, what=status)
    return came[-1]


def tear(stage: Stage, volume: Volume) -> None:
    """Have the copy on dr2 diverge from dr1, which stays primary."""
    there = stage.there
    settle(lambda: there.client.promote(volume.handle, force=True))
    poll(
        lambda: accepts(there, volume, b"diverged", 0),
        seconds=60,
        what="dr2 takes a write",
    )
    if stage.mode == "snapshot":
        stage.here.take_mirror_snapshot(volume)
    settle(lambda: there.client.demote(volume.handle))


def _facts(site: SiteUnderTest, volume: Volume) -> dict[str, object]:
    with site.image(volume) as image:
        facts: dict[str, object] = {
            "id": image.id(),
            "size": image.size(),
            "features": image.features(),
            "metadata": sorted(image.metadata_list()),
            "lockers": image.list_lockers(),
        }
    return {
        **facts,
        "newest snapshot": max((each["id"] for each in site.mirror_snapshots(volume)), default=0),
        "schedules": site.schedules(volume),
    }
