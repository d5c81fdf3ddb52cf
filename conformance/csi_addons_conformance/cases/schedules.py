# SPDX-License-Identifier: Apache-2.0
"""Snapshot schedules: exactly the one asked for, whatever stood there before."""

import time
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
    row="Journal mode ignores the scheduling keys with a warning",
    modes=JOURNAL,
)
def journal_ignores_them(stage: Stage) -> None:
    """OK, also with a malformed interval, and no schedule stands."""
    volume = stage.enabled(schedulingInterval="nonsense", schedulingStartTime="never")
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
