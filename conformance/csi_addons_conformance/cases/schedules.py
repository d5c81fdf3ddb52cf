# SPDX-License-Identifier: Apache-2.0
"""Snapshot schedules: exactly the one asked for, whatever stood there before."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import pairwise

from csi_addons_conformance.case import JOURNAL, SNAPSHOT, Kind, case, expect, poll, require, settle
from csi_addons_conformance.stage import Stage
from lab import Volume


@case(
    "schedules/exactly-one",
    kind=Kind.CONTRACT,
    row="After enable and promote on a primary: exactly one schedule on the image, the one asked "
    "for, in interval and start time, whatever stood there before",
    modes=SNAPSHOT,
)
def exactly_one(stage: Stage) -> None:
    """Interval and start time are replaced, and terms of other tools removed."""
    volume = stage.volume()
    enable, promote = stage.here.client.enable, stage.here.client.promote
    expect(enable(volume.handle, schedulingInterval="2h"), "OK")
    _require_schedule(stage, volume, "2h")
    expect(enable(volume.handle, schedulingInterval="1d"), "OK")
    _require_schedule(stage, volume, "1d")
    stage.here.site.rbd(
        *("mirror", "snapshot", "schedule", "add", "--pool", stage.here.site.pool),
        *("--image", volume.image, "7m"),
    )
    expect(promote(volume.handle, schedulingInterval="5m", schedulingStartTime="14:00:00"), "OK")
    _require_schedule(stage, volume, "5m", "14:00")
    expect(promote(volume.handle, schedulingInterval="5m", schedulingStartTime="15:00:00"), "OK")
    _require_schedule(stage, volume, "5m", "15:00")
    expect(promote(volume.handle, schedulingInterval="5m"), "OK")
    _require_schedule(stage, volume, "5m")


def _require_schedule(stage: Stage, volume: Volume, interval: str, start: str = "") -> None:
    standing = stage.here.schedules(volume)
    require(
        len(standing) == 1
        and standing[0][0] == interval
        and standing[0][1].startswith(start)
        and bool(standing[0][1]) == bool(start),
        f"the one schedule {interval} {start}".rstrip(),
        standing,
    )


@case(
    "schedules/end-with-demote",
    kind=Kind.CONTRACT,
    row="Demote, disable and the end of the image end it",
    modes=SNAPSHOT,
)
def end_with_demote(stage: Stage) -> None:
    """A secondary has no schedule."""
    volume = stage.enabled(schedulingInterval="5m")
    settle(lambda: stage.here.client.demote(volume.handle))
    require(not stage.here.schedules(volume), "no schedule", stage.here.schedules(volume))


@case(
    "schedules/journal-ignores-them",
    kind=Kind.CONTRACT,
    row="Journal mode needs no schedule: schedulingStartTime is ignored with a warning, "
    "schedulingInterval is checked and accepted",
    modes=JOURNAL,
)
def journal_ignores_them(stage: Stage) -> None:
    """OK with an interval and any start time, and no schedule stands; a bad interval is refused."""
    refused = stage.here.client.enable(
        stage.volume().handle, mirroringMode=stage.mode, schedulingInterval="nonsense"
    )
    expect(refused, "INVALID_ARGUMENT", saying=("schedulingInterval",))
    volume = stage.enabled(schedulingInterval="5m", schedulingStartTime="never")
    require(not stage.here.schedules(volume), "no schedule", stage.here.schedules(volume))


@case(
    "schedules/seconds",
    kind=Kind.CONTRACT,
    row="an interval in seconds is kept by the driver itself: a mirror snapshot when the newest "
    "one is an interval old; Demote ends it",
    modes=SNAPSHOT,
)
def seconds(stage: Stage) -> None:
    """With 10s a new snapshot comes about every 10 s, and none after the demotion."""
    volume = stage.mirrored(schedulingInterval="10s")
    require(not stage.here.schedules(volume), "no schedule at Ceph's", stage.here.schedules(volume))
    times = _sync_times(stage, volume, 4)
    gaps = [later - earlier for earlier, later in pairwise(times[1:])]
    stage.say(f"seconds between snapshots: {gaps}")
    require(all(9 <= gap <= 45 for gap in gaps), "10 s between snapshots", gaps)
    settle(lambda: stage.here.client.demote(volume.handle))
    before = [snap["id"] for snap in stage.here.mirror_snapshots(volume)]
    time.sleep(15)  # longer than the interval: what must not happen takes its time
    after = [snap["id"] for snap in stage.here.mirror_snapshots(volume)]
    require(set(after) <= set(before), "no snapshot after the demotion", after)


def _sync_times(stage: Stage, volume: Volume, count: int) -> list[int]:
    """Wait for so many different last sync times, in Unix seconds."""
    seen: list[int] = []

    def look() -> bool:
        answer = stage.here.client.info(volume.handle)
        newest = int(answer.response.last_sync_time.seconds) if answer.code == "OK" else 0
        if newest and newest not in seen:
            seen.append(newest)
        return len(seen) >= count

    poll(look, seconds=120, what=f"{count} snapshots on dr2")
    return seen


@case(
    "schedules/manager-away",
    kind=Kind.CONTRACT,
    row="The mgr being away must not fail or delay a promote by more than 5 s: the schedule then "
    "converges in the background, also after a restart, and info says DEGRADED meanwhile",
    modes=SNAPSHOT,
    alone=True,
)
def manager_away(stage: Stage) -> None:
    """Promote is OK within 10 s, info DEGRADED; with the mgr back the schedule stands."""
    volume = stage.mirrored(schedulingInterval="1h")
    with stage.here.without("mgr"):
        answer = stage.here.client.promote(volume.handle, schedulingInterval="3m")
        expect(answer, "OK", within=10)
        info = stage.here.client.info(volume.handle)
        expect(info, "OK")
        require(info.response.status == info.response.DEGRADED, "DEGRADED", info.response.status)
        require("schedule" in info.response.status_message, "why", info.response.status_message)
        if stage.here.started is not None:
            stage.here.restart_driver()

    def placed() -> bool:
        stage.here.client.info(volume.handle)
        return [interval for interval, _ in stage.here.schedules(volume)] == ["3m"]

    poll(placed, seconds=60, what="the schedule asked for stands, alone")
    settle(lambda: stage.here.client.info(volume.handle))


@case(
    "schedules/lost",
    kind=Kind.CONTRACT,
    row="GetVolumeReplicationInfo: DEGRADED when the schedule is not in place; it converges from "
    "the next call of any kind",
    modes=SNAPSHOT,
)
def lost(stage: Stage) -> None:
    """Removed past the driver, as by hand: info says so, and in the end it stands again."""
    volume = stage.mirrored(schedulingInterval="1h")
    _require_schedule(stage, volume, "1h")
    stage.here.remove_schedules(volume)
    require(not stage.here.schedules(volume), "none", stage.here.schedules(volume))

    def told() -> bool:  # an answer may be up to 2 s old
        info = stage.here.client.info(volume.handle)
        expect(info, "OK")
        return "schedule" in info.response.status_message and (
            info.response.status == info.response.DEGRADED
        )

    poll(told, seconds=10, what="DEGRADED, and why")

    def stands() -> bool:
        stage.here.client.info(volume.handle)
        return [interval for interval, _ in stage.here.schedules(volume)] == ["1h"]

    poll(stands, seconds=90, what="the schedule asked for stands again")
    poll(lambda: not told(), seconds=10, what="no word of it any more")


@case(
    "schedules/units",
    kind=Kind.CONTRACT,
    row="schedulingInterval (whole number and s, m, h or d), schedulingStartTime (ISO 8601)",
    modes=SNAPSHOT,
)
def units(stage: Stage) -> None:
    """Minutes, hours and days are what Ceph keeps, and one start time replaces another."""
    volume, enable = stage.volume(), stage.here.client.enable
    for interval, minutes in (("1m", 1), ("90m", 90), ("60m", 60), ("1h", 60), ("24h", 1440)):
        expect(enable(volume.handle, schedulingInterval=interval), "OK")
        came = [_minutes(each) for each, _ in stage.here.schedules(volume)]
        require(came == [minutes], f"one schedule of {minutes} minutes", came)
    for start in ("14:00", "14:00:00-05:00", "2030-01-31T14:00:00Z"):
        expect(enable(volume.handle, schedulingInterval="1d", schedulingStartTime=start), "OK")
        standing = stage.here.schedules(volume)
        require([_minutes(each) for each, _ in standing] == [1440], "one schedule of 1d", standing)
        require("14:00" in standing[0][1], f"the start time {start}", standing)
    require("-05:00" not in standing[0][1], "the newest start time", standing)


def _minutes(interval: str) -> int:
    return int(interval[:-1]) * {"m": 1, "h": 60, "d": 1440}[interval[-1]]


@case(
    "schedules/follow-the-primary",
    kind=Kind.CONTRACT,
    row="After enable and promote on a primary: exactly one schedule on the image; Demote, disable "
    "and the end of the image end it",
    modes=SNAPSHOT,
)
def follow_the_primary(stage: Stage) -> None:
    """A planned move takes the schedule from dr1 to dr2, in the terms of the promote."""
    volume = stage.mirrored(schedulingInterval="2h")
    settle(lambda: stage.here.client.demote(volume.handle))
    require(not stage.here.schedules(volume), "none on dr1", stage.here.schedules(volume))
    settle(
        lambda: stage.there.client.promote(
            volume.handle, schedulingInterval="7m", schedulingStartTime="06:30:00"
        )
    )
    standing = stage.there.schedules(volume)
    require(standing == [("7m", "06:30:00")], "7m from 06:30:00 on dr2", standing)
    require(not stage.here.schedules(volume), "none on dr1", stage.here.schedules(volume))
    expect(stage.there.client.disable(volume.handle), "OK")
    require(not stage.there.schedules(volume), "none any more", stage.there.schedules(volume))


@case(
    "schedules/others-untouched",
    kind=Kind.CONTRACT,
    row="Exactly one schedule on the image (image level)",
    modes=SNAPSHOT,
    alone=True,
)
def others_untouched(stage: Stage) -> None:
    """The administrator's schedule of the pool stays through Enable, change and Disable."""
    site, volume = stage.here.site, stage.volume()
    command = ("mirror", "snapshot", "schedule")
    site.rbd(*command, "add", "--pool", site.pool, "11h")
    try:
        for interval in ("2h", "5m"):
            expect(stage.here.client.enable(volume.handle, schedulingInterval=interval), "OK")
            _require_schedule(stage, volume, interval)
        expect(stage.here.client.disable(volume.handle), "OK")
        left = site.rbd(*command, "ls", "--pool", site.pool)
        require("every 11h" in left, "the schedule of the pool", left)
    finally:
        site.rbd(*command, "remove", "--pool", site.pool, "11h")


@case(
    "schedules/seconds-to-minutes",
    kind=Kind.CONTRACT,
    row="Exactly one schedule on the image, the one asked for, whatever stood there before; an "
    "interval in seconds (10s and up) is kept by the driver itself",
    modes=SNAPSHOT,
)
def seconds_to_minutes(stage: Stage) -> None:
    """Ceph's schedule goes when seconds are asked for; the driver's ends when minutes are."""
    volume = stage.mirrored(schedulingInterval="2h")
    expect(stage.here.client.enable(volume.handle, schedulingInterval="10s"), "OK")
    require(not stage.here.schedules(volume), "none at Ceph's", stage.here.schedules(volume))
    _await_snapshots(stage, volume, 2)
    expect(stage.here.client.promote(volume.handle, schedulingInterval="3h"), "OK")
    _require_schedule(stage, volume, "3h")
    _require_no_snapshot(stage, volume)


@case(
    "schedules/seconds-end",
    kind=Kind.CONTRACT,
    row="Demote, disable and the end of the image end it",
    modes=SNAPSHOT,
)
def seconds_end(stage: Stage) -> None:
    """After Disable no snapshot is taken, also when mirroring is enabled again without terms."""
    volume = stage.mirrored(schedulingInterval="10s")
    _await_snapshots(stage, volume, 1)
    expect(stage.here.client.disable(volume.handle), "OK")
    poll(lambda: not stage.there.exists(volume), seconds=60, what="the copy on dr2 goes")
    expect(stage.here.client.enable(volume.handle), "OK")
    stage.await_copy(volume)
    _require_no_snapshot(stage, volume)


@case(
    "schedules/seconds-on-top",
    kind=Kind.CONTRACT,
    row="It takes the mirror snapshot when the newest one, whoever took it, is an interval old",
    modes=SNAPSHOT,
)
def seconds_on_top(stage: Stage) -> None:
    """A snapshot taken by hand puts the next one of the driver off by an interval."""
    volume = stage.mirrored(schedulingInterval="15s")
    _await_snapshots(stage, volume, 1)
    time.sleep(8)  # half an interval, give or take
    stage.here.take_mirror_snapshot(volume)
    by_hand = _newest(stage, volume)
    began = time.monotonic()
    poll(lambda: _newest(stage, volume) > by_hand, seconds=45, what="the driver's next snapshot")
    seconds = time.monotonic() - began
    require(seconds > 12, "15 s between that by hand and the next one", f"{seconds:.1f} s")


@case(
    "schedules/seconds-survive-restart",
    kind=Kind.CONTRACT,
    row="What was asked for is recorded on the image, so a restarted driver goes on as soon as any "
    "call, GetVolumeReplicationInfo included, brings credentials",
    modes=SNAPSHOT,
    alone=True,
)
def seconds_survive_restart(stage: Stage) -> None:
    """A driver that was killed takes snapshots again after one call for information."""
    volume = stage.mirrored(schedulingInterval="10s")
    _await_snapshots(stage, volume, 1)
    stage.here.restart_driver()
    expect(stage.here.client.info(volume.handle), "OK")
    _await_snapshots(stage, volume, 3)


@case(
    "schedules/seconds-wait-for-peer",
    kind=Kind.SAFETY,
    row="Never while the peer still lacks the previous one; never at the cap of mirror snapshots",
    modes=SNAPSHOT,
    alone=True,
)
def seconds_wait_for_peer(stage: Stage) -> None:
    """While dr2's rbd-mirror is dead at most one snapshot is taken; then they come again."""
    volume = stage.mirrored(schedulingInterval="10s")
    _await_snapshots(stage, volume, 1)
    with stage.there.without("rbd-mirror"):
        before = {each["id"] for each in stage.here.mirror_snapshots(volume)}
        time.sleep(35)  # three intervals: what must not happen takes its time
        added = {each["id"] for each in stage.here.mirror_snapshots(volume)} - before
        require(len(added) <= 1, "at most one snapshot that dr2 does not have", sorted(added))
    _await_snapshots(stage, volume, 2)


def _newest(stage: Stage, volume: Volume) -> int:
    return max(int(each["id"]) for each in stage.here.mirror_snapshots(volume))


def _await_snapshots(stage: Stage, volume: Volume, count: int) -> None:
    """Wait until so many mirror snapshots have come, at no more than 45 s for each."""
    for _ in range(count):
        before = _newest(stage, volume)
        poll(
            lambda before=before: _newest(stage, volume) > before,  # type: ignore[misc]
            seconds=45,
            what="a new mirror snapshot",
        )


def _require_no_snapshot(stage: Stage, volume: Volume) -> None:
    before = _newest(stage, volume)
    time.sleep(25)  # two intervals and more: what must not happen takes its time
    after = _newest(stage, volume)
    require(after == before, "no new mirror snapshot", f"{after} after {before}")


@case(
    "schedules/manager-away-promote",
    kind=Kind.CONTRACT,
    row="The mgr being away must not fail or delay a promote by more than 5 s: the schedule then "
    "converges in the background with credentials still pooled",
    modes=SNAPSHOT,
    alone=True,
    tags={"long"},
)
def manager_away_promote(stage: Stage) -> None:
    """A real promote is no later than 5 s while the mgr is dead or dumb; then all stands."""
    for away in (stage.here.without, stage.here.frozen):
        _promote_while(stage, away)


def _promote_while(stage: Stage, away: Callable[[str], AbstractContextManager[None]]) -> None:
    volume, client = stage.enabled(schedulingInterval="1h"), stage.here.client
    settle(lambda: client.demote(volume.handle))
    began = time.monotonic()
    settle(lambda: client.promote(volume.handle, force=True))
    usual = time.monotonic() - began
    settle(lambda: client.demote(volume.handle))
    with away("mgr"):
        answer = client.promote(volume.handle, force=True, schedulingInterval="3m")
        stage.say(f"{answer.seconds:.1f} s, with the mgr {usual:.1f} s")
        expect(answer, "OK", within=usual + 7)
    poll(
        lambda: stage.here.schedules(volume) == [("3m", "")],
        seconds=90,
        what="the schedule asked for stands, without another call",
    )


@case(
    "schedules/manager-away-demote",
    kind=Kind.CONTRACT,
    row="Demote, disable and the end of the image end it; the schedule converges in the background",
    modes=SNAPSHOT,
    alone=True,
    tags={"long"},
)
def manager_away_demote(stage: Stage) -> None:
    """A demote is not held up by a dead mgr; a schedule left behind has no effect."""
    volume = stage.enabled(schedulingInterval="1m")
    with stage.here.without("mgr"):
        settle(lambda: stage.here.client.demote(volume.handle), seconds=30)
        require(not stage.here.primary(volume), "a secondary", "a primary")
    settle(lambda: stage.here.client.promote(volume.handle, force=True, schedulingInterval="4h"))
    _require_schedule(stage, volume, "4h")
