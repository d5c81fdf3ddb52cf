# SPDX-License-Identifier: Apache-2.0
"""What this driver writes on an image: metadata that stays on its site and is not mirrored."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from csi_addons_rbd.replication.calls import MirroringMode, Schedule
from csi_addons_rbd.replication.image import MirroredImage, MirrorView

SCHEDULE: Final = "schedule"
ENDED: Final = "ended"
"""Stands in place of a schedule that the manager may still have; or around it, for as long as what
is to end it may not have happened. To earlier versions either is no schedule."""
LAST_SYNC: Final = "last-sync"
READERS: Final = "readers"
"""The peers that read this image's journal when it was promoted last."""
DEMOTING: Final = "demoting"
"""Stands from before a demotion until nobody is known to have come in between."""
SWITCHING: Final = "switching"
"""Stands while mirroring is being switched on or off."""
_LATEST: Final = 253402300799
"""The last second of the year 9999, beyond which no ``google.protobuf.Timestamp`` goes."""
_LONGEST: Final = 100 * 365 * 24 * 60 * 60
"""Seconds beyond which no interval was ever asked for."""
_UNREADABLE: Final = (KeyError, TypeError, ValueError, OverflowError, RecursionError)
"""What reading a note may raise that somebody else wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The schedule noted on an image."""

    schedule: Schedule
    placed: bool
    """Whether the manager has taken it over, or given up its own for one kept by the driver."""


def end_schedule(image: MirroredImage) -> str | None:
    """Note that there is to be no schedule any more; return what was noted.

    It stays readable in the note: what ends it may be cut short before it happens.
    """
    standing = image.notes().get(SCHEDULE)
    if standing is not None:
        image.note(SCHEDULE, ended(standing))
    return standing


def forget_ended_schedule(image: MirroredImage) -> None:
    """Leave nothing to go on with of a schedule that did end: its end may still have to be placed.

    That is, with the term as primary, or the mirroring, of before.
    """
    notes = image.notes()
    if ended_schedule(notes) is not None:
        image.note(SCHEDULE, ENDED, only=notes[SCHEDULE])


def ended(standing: str) -> str:
    """Return the note that ends a noted schedule."""
    if _is_end(standing):
        return standing
    try:
        return json.dumps({ENDED: json.loads(standing)})
    except _UNREADABLE:
        return ENDED


def _is_end(note: str) -> bool:
    try:
        values = json.loads(note)
    except _UNREADABLE:
        return note == ENDED
    return isinstance(values, dict) and ENDED in values


def note_readers(image: MirroredImage, readers: Iterable[str]) -> None:
    """Note who reads the journal from the promotion's first entry on."""
    image.note(READERS, json.dumps(sorted(readers)))


def noted_readers(notes: Mapping[str, str]) -> frozenset[str] | None:
    """Read who did; ``None`` when nobody noted it, as another tool would not."""
    try:
        return frozenset(json.loads(notes[READERS]))
    except _UNREADABLE:
        return None


def late_readers(view: MirrorView) -> frozenset[str]:
    """Return the peers (mirror uuids) that began to read the journal after the promotion.

    A reader that registers begins at the primary's own position: what was written before that it
    never gets, and rbd-mirror does not notice. Only a whole copy makes up for it.
    """
    readers = noted_readers(view.notes)
    if view.mode is MirroringMode.SNAPSHOT or readers is None:
        return frozenset()
    return view.history.readers - readers - view.history.copied


@dataclass(frozen=True, slots=True, kw_only=True)
class Demotion:
    """A demotion that may not have gone well."""

    clients: tuple[str, ...] = ()
    """Who appeared in the middle of it; nobody while that was not looked for."""
    mark: int | None = None
    """With clients: which demotion that was, see ``History.mark``."""
    anew: bool = False
    """Whether the image was promoted for it, to be demoted at once: without a look at peers."""


def note_demotion(image: MirroredImage, demotion: Demotion) -> None:
    """Write down a demotion."""
    image.note(DEMOTING, json.dumps(asdict(demotion)))


def noted_demotion(notes: Mapping[str, str]) -> Demotion | None:
    """Read the noted demotion; one that cannot be read is one that was cut short."""
    if DEMOTING not in notes:
        return None
    try:
        values = json.loads(notes[DEMOTING])
        return Demotion(
            clients=tuple(map(str, values["clients"])),
            mark=values["mark"],
            anew=bool(values.get("anew", False)),
        )
    except _UNREADABLE:
        return Demotion()


def unreadable_schedule(notes: Mapping[str, str]) -> bool:
    """Tell whether what is noted is neither a schedule nor the end of one.

    A newer version of this driver may have written it, or it is damaged.
    """
    note = notes.get(SCHEDULE)
    return note is not None and not _is_end(note) and wanted_schedule(notes) is None


def keeps_unreadable_schedule(view: MirrorView) -> bool:
    """Tell whether this is a primary whose schedule nobody may touch who cannot read the note.

    To remove it would leave a live primary without snapshots; a secondary needs none.
    """
    by_snapshots = view.mode is MirroringMode.SNAPSHOT
    return view.primary and by_snapshots and unreadable_schedule(view.notes)


def wanted_schedule(notes: Mapping[str, str]) -> Wanted | None:
    """Read the noted schedule; ``None`` also where it cannot: see ``unreadable_schedule``."""
    try:
        return _wanted(json.loads(notes[SCHEDULE]))
    except _UNREADABLE:
        return None


def ended_schedule(notes: Mapping[str, str]) -> Wanted | None:
    """Read the schedule that was to end, if what was to end it may not have happened."""
    try:
        wanted = _wanted(json.loads(notes[SCHEDULE])[ENDED])
    except _UNREADABLE:
        return None
    return None if wanted is None else replace(wanted, placed=False)


def _wanted(values: Mapping[str, Any]) -> Wanted | None:
    try:
        seconds, start_time = values["seconds"], values["start_time"]
        if not isinstance(seconds, int) or not isinstance(start_time, str | None):
            return None
        if not 0 < seconds <= _LONGEST:
            return None
        return Wanted(
            schedule=Schedule(
                seconds=seconds, by_driver=bool(values["by_driver"]), start_time=start_time
            ),
            placed=bool(values["placed"]),
        )
    except _UNREADABLE:
        return None


def note_schedule(image: MirroredImage, wanted: Wanted, *, only: str | None = None) -> None:
    """Write down the schedule that was asked for; see ``MirroredImage.note``."""
    image.note(SCHEDULE, schedule_note(wanted), only=only)


def schedule_note(wanted: Wanted) -> str:
    """Return the note of a schedule."""
    return json.dumps(
        {
            "seconds": wanted.schedule.seconds,
            "by_driver": wanted.schedule.by_driver,
            "start_time": wanted.schedule.start_time,
            "placed": wanted.placed,
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """Until when every peer had everything, and where in the image's history that was learnt."""

    until: int
    """Unix seconds of the cluster's clock."""
    mark: int
    """The history's mark in that moment."""
    mirroring: str
    """The mirroring's global id."""

    def holds(self, view: MirrorView) -> bool:
        """Tell whether it was learnt in the present term as primary, as far as the image shows."""
        return self.mirroring == view.mirroring and self.mark >= view.history.first


def synced(view: MirrorView, until: int) -> Synced:
    """Tie the time of a sync to what the image shows now."""
    return Synced(until=until, mark=view.history.mark, mirroring=view.mirroring)


def note_sync(image: MirroredImage, last: Synced) -> None:
    """Write down the last sync."""
    image.note(LAST_SYNC, json.dumps(asdict(last)))


def noted_sync(notes: Mapping[str, str]) -> Synced | None:
    """Read the noted last sync; one that is not tied to a term, as of earlier versions, is none."""
    try:
        values = json.loads(notes[LAST_SYNC])
        until = int(values["until"])
        if not 0 < until <= _LATEST:
            return None
        return Synced(until=until, mark=int(values["mark"]), mirroring=str(values["mirroring"]))
    except _UNREADABLE:
        return None
