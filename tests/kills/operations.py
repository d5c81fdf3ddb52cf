# SPDX-License-Identifier: Apache-2.0
"""The operations that are cut short, and what each leaves behind when nobody cuts it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from csi_addons_conformance.case import BOTH, JOURNAL, SNAPSHOT, poll, settle
from csi_addons_conformance.client import Answer
from csi_addons_conformance.stage import Stage

from lab import Volume

_SIZE: Final = 2 << 20
_HOURLY: Final = {"schedulingInterval": "1h"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation on dr1, on a volume that was made ready for it."""

    name: str
    modes: tuple[str, ...]
    prepare: Callable[[Stage], Volume]
    call: Callable[[Stage, Volume], Answer]
    mirrored: bool = True
    primary: bool = False
    schedules: tuple[str, ...] = ()
    """The manager's schedules of the image afterwards, in snapshot mode."""
    notes: frozenset[str] = frozenset()
    """The driver's notes on the image that may stand afterwards."""
    recreated: bool = False
    """Whether the image is deleted and copied anew, once."""


def _unmirrored(stage: Stage) -> Volume:
    return stage.volume(size=_SIZE)


def _primary(stage: Stage) -> Volume:
    volume = _unmirrored(stage)
    schedule = _HOURLY if stage.mode == "snapshot" else {}
    settle(partial(stage.here.client.enable, volume.handle, mirroringMode=stage.mode, **schedule))
    stage.await_copy(volume)
    return volume


def _secondary(stage: Stage) -> Volume:
    volume = stage.lab.make_volume(stage.there.name, _SIZE)
    settle(partial(stage.there.client.enable, volume.handle, mirroringMode=stage.mode))
    poll(
        lambda: stage.here.exists(volume) and stage.here.state(volume) == "up+replaying",
        seconds=120,
        what="the copy on dr1 follows",
    )
    return volume


def _demoted_there(stage: Stage) -> Volume:
    volume = _secondary(stage)
    settle(partial(stage.there.client.demote, volume.handle))
    return volume


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


def _enable(stage: Stage, volume: Volume, **parameters: str) -> Answer:
    return stage.here.client.enable(volume.handle, mirroringMode=stage.mode, **parameters)


def _promote(stage: Stage, volume: Volume, *, force: bool) -> Answer:
    schedule = _HOURLY if stage.mode == "snapshot" else {}
    return stage.here.client.promote(volume.handle, force=force, **schedule)


_KEPT: Final = frozenset({"schedule", "last-sync", "features"})

OPERATIONS: Final = (
    Operation(
        name="enable, every hour",
        modes=SNAPSHOT,
        prepare=_unmirrored,
        call=partial(_enable, **_HOURLY),
        primary=True,
        schedules=("1h",),
        notes=_KEPT,
    ),
    Operation(
        name="enable, every 10 s",
        modes=SNAPSHOT,
        prepare=_unmirrored,
        call=partial(_enable, schedulingInterval="10s"),
        primary=True,
        notes=_KEPT,
    ),
    Operation(
        name="enable",
        modes=JOURNAL,
        prepare=_unmirrored,
        call=_enable,
        primary=True,
        notes=_KEPT,
    ),
    Operation(
        name="disable",
        modes=BOTH,
        prepare=_primary,
        call=lambda stage, volume: stage.here.client.disable(volume.handle),
        mirrored=False,
    ),
    Operation(
        name="demote",
        modes=BOTH,
        prepare=_primary,
        call=lambda stage, volume: stage.here.client.demote(volume.handle),
        notes=frozenset({"last-sync", "features"}),
    ),
    Operation(
        name="promote",
        modes=BOTH,
        prepare=_demoted_there,
        call=partial(_promote, force=False),
        primary=True,
        schedules=("1h",),
        notes=_KEPT,
    ),
    Operation(
        name="promote by force",
        modes=BOTH,
        prepare=_secondary,
        call=partial(_promote, force=True),
        primary=True,
        schedules=("1h",),
        notes=_KEPT,
    ),
    Operation(
        name="resync by force",
        modes=BOTH,
        prepare=_torn,
        call=lambda stage, volume: stage.here.client.resync(volume.handle, force=True),
        recreated=True,
    ),
)
