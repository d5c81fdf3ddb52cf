# SPDX-License-Identifier: Apache-2.0
"""What this driver writes on an image: metadata that stays on its site and is not mirrored."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from csi_addons_rbd.replication.calls import Schedule
from csi_addons_rbd.replication.image import MirroredImage

SCHEDULE: Final = "schedule"
ENDED: Final = "ended"
"""Stands in place of a schedule that the manager may still have."""
LAST_SYNC: Final = "last-sync"
SWITCHING: Final = "switching"
"""Stands while mirroring is being switched on or off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The schedule noted on an image."""

    schedule: Schedule
    placed: bool
    """Whether the manager has taken it over, or given up its own for one kept by the driver."""


def end_schedule(image: MirroredImage) -> str | None:
    """Note that there is to be no schedule any more; return what was noted."""
    standing = image.notes().get(SCHEDULE)
    if standing is not None:
        image.note(SCHEDULE, ENDED)
    return standing


def wanted_schedule(notes: Mapping[str, str]) -> Wanted | None:
    """Read the noted schedule; one that cannot be read is none."""
    try:
        values = json.loads(notes[SCHEDULE])
        return Wanted(
            schedule=Schedule(
                seconds=int(values["seconds"]),
                by_driver=bool(values["by_driver"]),
                start_time=values["start_time"],
            ),
            placed=bool(values["placed"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def note_schedule(image: MirroredImage, wanted: Wanted) -> None:
    """Write down the schedule that was asked for."""
    values = {
        "seconds": wanted.schedule.seconds,
        "by_driver": wanted.schedule.by_driver,
        "start_time": wanted.schedule.start_time,
        "placed": wanted.placed,
    }
    image.note(SCHEDULE, json.dumps(values))


def noted_sync(notes: Mapping[str, str]) -> int | None:
    """Read the noted time of the last sync, in Unix seconds."""
    note = notes.get(LAST_SYNC)
    return int(note) if note and note.isdecimal() else None
