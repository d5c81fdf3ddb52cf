# SPDX-License-Identifier: Apache-2.0
"""The operations that are cut short, and what each leaves behind when nobody cuts it."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import rbd
from csi_addons_conformance.case import BOTH, JOURNAL, SNAPSHOT, poll, settle
from csi_addons_conformance.cases.enable import clone
from csi_addons_conformance.client import Answer
from csi_addons_conformance.stage import Stage

from lab import Volume

_SIZE: Final = 2 << 20
_SHOWN: Final = 60
_TAKEN: Final = 60
"""Seconds in which the peer has the snapshot before, and the driver takes the next."""
_TURN_ENDS: Final = 2
"""Seconds that the driver needs, after a snapshot of its own schedule, to note it."""
MOST: Final = 60
"""Points at which an operation counts as one that never ends."""
_HOURLY: Final = {"schedulingInterval": "1h"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One call on dr1, and what it leaves."""

    call: Callable[[Stage, Volume], Answer]
    mirrored: bool = True
    primary: bool = False
    schedules: tuple[str, ...] = ()
    """The manager's schedules of the image afterwards, in snapshot mode."""
    notes: frozenset[str] = frozenset()
    """The driver's notes on the image that may stand afterwards."""
    recreated: bool = False
    """Whether the image is deleted and copied anew, once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation, on a volume that was made ready for it."""

    name: str
    modes: tuple[str, ...]
    prepare: Callable[[Stage], Volume]
    act: Act
    undone: Act | None = None
    """What undoes it, after which a late act would be seen."""
    at_once: int = MOST
    """How many of its points can be held at the same time."""
    keeps_on: bool = False
    """Whether the driver goes on with it, and comes to points, until mirroring is off."""


def _unmirrored(stage: Stage) -> Volume:
    return stage.volume(size=_SIZE)


def _primary(stage: Stage) -> Volume:
    volume = _unmirrored(stage)
    schedule = _HOURLY if stage.mode == "snapshot" else {}
    settle(partial(stage.here.client.enable, volume.handle, mirroringMode=stage.mode, **schedule))
    stage.await_copy(volume)
    return volume


def _secondary(stage: Stage) -> Volume:
    return stage.followed(size=_SIZE)


def _demoted_there(stage: Stage) -> Volume:
    volume = _secondary(stage)
    settle(partial(stage.there.client.demote, volume.handle))
    return volume


def _following_nobody(stage: Stage) -> Volume:
    """Make a secondary that is known to have no primary: any other is left alone by Disable."""
    volume = _demoted_there(stage)
    poll(
        lambda: (
            stage.here.state(volume) == "up+unknown"
            and stage.here.client.disable(volume.handle).code == "FAILED_PRECONDITION"
        ),
        seconds=120,
        what="dr1 knows that no site is primary",
    )
    return volume


def _clone(stage: Stage) -> Volume:
    return clone(stage.here, _unmirrored(stage))


def _torn(stage: Stage) -> Volume:
    """Make a split-brain in which dr2 is primary."""
    volume = _primary(stage)
    settle(partial(stage.there.client.promote, volume.handle, force=True))
    stage.there.write(volume, b"of the one side")
    stage.here.write(volume, b"of the other")
    settle(partial(stage.here.client.demote, volume.handle))
    poll(
        lambda: "split-brain" in str(stage.here.mirror_status(volume).get("description")),
        seconds=120,
        what="split-brain shows on dr1",
    )
    return volume


def _resync(stage: Stage, volume: Volume) -> Answer:
    """Ask until the request stands.

    Each rbd-mirror tries again every half a minute: then dr1 shows no split-brain for a moment, or
    dr2 no primary.
    """
    deadline = time.monotonic() + _SHOWN
    while True:
        answer = stage.here.client.resync(volume.handle, force=True)
        unsettled = answer.code == "OK" or answer.reason == "NO_GOOD_COPY_ELSEWHERE"
        if not unsettled or _requested(stage, volume) or time.monotonic() > deadline:
            return answer
        time.sleep(1)


def _requested(stage: Stage, volume: Volume) -> bool:
    with stage.here.site.ioctx() as ioctx:
        records = dict(rbd.RBD().pool_metadata_list(ioctx))
    record = json.loads(records.get(f"csi-addons-rbd/resync/{volume.image}", "{}"))
    return bool(record) and (record["sent"] or record["image_id"] != stage.here.image_id(volume))


def _enable(stage: Stage, volume: Volume, **parameters: str) -> Answer:
    return stage.here.client.enable(volume.handle, mirroringMode=stage.mode, **parameters)


def _promote(stage: Stage, volume: Volume, *, force: bool) -> Answer:
    schedule = _HOURLY if stage.mode == "snapshot" else {}
    return stage.here.client.promote(volume.handle, force=force, **schedule)


def _snapshot_in_time(stage: Stage, volume: Volume) -> Answer:
    """Ask for an interval that the driver itself keeps, and wait until it kept it once."""
    before = _newest_snapshot(stage, volume)
    answer = _enable(stage, volume, schedulingInterval="10s")
    if answer.code == "OK":
        poll(
            lambda: _newest_snapshot(stage, volume) != before,
            seconds=_TAKEN,
            what="the driver takes a mirror snapshot",
            every=0.1,
        )
        time.sleep(_TURN_ENDS)
    return answer


def _newest_snapshot(stage: Stage, volume: Volume) -> int:
    return max(
        (snap["id"] for snap in stage.here.mirror_snapshots(volume) if snap["mirror"]["complete"]),
        default=0,
    )


_KEPT: Final = frozenset({"schedule", "last-sync", "features", "readers"})
_ENABLE: Final = Act(call=_enable, primary=True, notes=_KEPT)
_DISABLE: Final = Act(
    call=lambda stage, volume: stage.here.client.disable(volume.handle), mirrored=False
)
_DISABLE_BY_FORCE: Final = replace(
    _DISABLE, call=lambda stage, volume: stage.here.client.disable(volume.handle, force="true")
)
_ENABLE_CLONE: Final = replace(_ENABLE, call=partial(_enable, flattenMode="force"))
_DEMOTE: Final = Act(
    call=lambda stage, volume: stage.here.client.demote(volume.handle),
    notes=_KEPT - {"schedule"},
)
_PROMOTE: Final = Act(
    call=partial(_promote, force=False), primary=True, schedules=("1h",), notes=_KEPT
)
_FORCE: Final = replace(_PROMOTE, call=partial(_promote, force=True))

OPERATIONS: Final = (
    Operation(
        name="enable, every hour",
        modes=SNAPSHOT,
        prepare=_unmirrored,
        act=replace(_ENABLE, call=partial(_enable, **_HOURLY), schedules=("1h",)),
        undone=_DISABLE,
    ),
    Operation(
        name="enable, every 10 s",
        modes=SNAPSHOT,
        prepare=_unmirrored,
        act=replace(_ENABLE, call=partial(_enable, schedulingInterval="10s")),
        undone=_DISABLE,
        keeps_on=True,
    ),
    Operation(name="enable", modes=JOURNAL, prepare=_unmirrored, act=_ENABLE, undone=_DISABLE),
    Operation(
        name="enable a clone",
        modes=BOTH,
        prepare=_clone,
        act=_ENABLE_CLONE,
        undone=_DISABLE,
    ),
    Operation(
        name="the driver's own schedule",
        modes=SNAPSHOT,
        prepare=_primary,
        act=replace(_ENABLE, call=_snapshot_in_time),
        undone=_DISABLE,
        at_once=5,  # of the eight images that the driver looks after at the same time
        keeps_on=True,
    ),
    Operation(name="disable", modes=BOTH, prepare=_primary, act=_DISABLE, undone=_ENABLE),
    Operation(
        name="disable a secondary by force",
        modes=BOTH,
        prepare=_following_nobody,
        act=_DISABLE_BY_FORCE,
        undone=_ENABLE,
    ),
    Operation(name="demote", modes=BOTH, prepare=_primary, act=_DEMOTE, undone=_FORCE),
    Operation(name="promote", modes=BOTH, prepare=_demoted_there, act=_PROMOTE, undone=_DEMOTE),
    Operation(name="promote by force", modes=BOTH, prepare=_secondary, act=_FORCE, undone=_DEMOTE),
    Operation(
        name="resync by force",
        modes=BOTH,
        prepare=_torn,
        act=Act(call=_resync, recreated=True),
    ),
)
