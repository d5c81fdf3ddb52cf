# SPDX-License-Identifier: Apache-2.0
"""What an operation left behind, read past the driver."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress

import rados
import rbd
from csi_addons_conformance.case import UnmetError, poll
from csi_addons_conformance.stage import Stage

from lab import Volume
from tests.kills.operations import Act

_NOTE = ".rbd.csi-addons-rbd."
_WATCHES_END = 45
"""Seconds until the cluster has forgotten the watch of a client that died."""
_COPIED = 170
_PURGED = 75
_DROPPED = 90
_SCHEDULED = 60
_ONCE = 5
"""Seconds within which rbd-mirror grants a request that still stands."""
_LEASE = "csi-addons-rbd.lock."


def leftovers(stage: Stage, act: Act, volume: Volume, image_id: str) -> list[str]:
    """Return what is not as an undisturbed run leaves it; ``image_id`` is that of before."""
    if act.recreated:

        def is_copied() -> bool:
            # asked for again and again, as by the controller, and also when it is done
            act.call(stage, volume)
            copied = stage.here.image_id(volume) not in ("", image_id)
            return copied and stage.here.state(volume) == "up+replaying"

        poll(is_copied, seconds=_COPIED, what="the image is copied anew", every=2)
        copied = stage.here.image_id(volume)
        time.sleep(_ONCE)
        if stage.here.image_id(volume) != copied:
            return ["it was copied anew twice"]
    found = list(_of_the_image(stage, act, volume))
    found += _of_the_pool(stage, volume, {image_id, stage.here.image_id(volume)})
    return found


def _of_the_image(stage: Stage, act: Act, volume: Volume) -> Iterator[str]:
    here = stage.here
    seen = here.mirrored(volume), act.mirrored and here.primary(volume)
    if seen != (act.mirrored, act.primary):
        yield f"mirrored, primary: {seen}"
    if act.mirrored and here.mode(volume) != stage.mode:
        yield f"mode: {here.mode(volume)}"
    standing = _settled_schedules(stage, act, volume)
    if standing != (act.schedules if stage.mode == "snapshot" else ()):
        yield f"schedules: {standing}"
    with here.image(volume) as image:
        notes = {
            key.removeprefix(_NOTE): value
            for key, value in image.metadata_list()
            if key.startswith(_NOTE)
        }
    if not act.mirrored and "ended" in notes.get("schedule", ""):
        del notes["schedule"]  # stands until the manager has confirmed, or until the next Enable
    if set(notes) - act.notes:
        yield f"notes: {notes}"
    if act.primary:
        # one is being taken, or was torn while others were: librbd drops it when newer ones stand
        try:
            poll(lambda: not _torn(stage, volume), seconds=_DROPPED, what="whole snapshots")
        except UnmetError:
            yield f"incomplete mirror snapshots: {_torn(stage, volume)}"
    if len(here.mirror_snapshots(volume)) > 4:
        yield f"mirror snapshots: {len(here.mirror_snapshots(volume))}"


def _torn(stage: Stage, volume: Volume) -> list[int]:
    snapshots = stage.here.mirror_snapshots(volume)
    return [snap["id"] for snap in snapshots if not snap["mirror"]["complete"]]


def _settled_schedules(stage: Stage, act: Act, volume: Volume) -> tuple[str, ...]:
    """Return the schedules that stand when what is on its way had time to arrive.

    A thawed driver that undid another one's tries again every 5 s; where it ends in the middle of
    that, the questions of the controller have the schedule put back after half a minute.
    """
    wanted = act.schedules if stage.mode == "snapshot" else ()

    def stand() -> bool:
        if act.primary:
            stage.here.client.info(volume.handle)
        return _schedules(stage, volume) == wanted

    with suppress(UnmetError):
        poll(stand, seconds=_SCHEDULED, what="the schedules")
    return _schedules(stage, volume)


def _schedules(stage: Stage, volume: Volume) -> tuple[str, ...]:
    return tuple(interval for interval, _ in stage.here.schedules(volume))


def _of_the_pool(stage: Stage, volume: Volume, image_ids: set[str]) -> Iterator[str]:
    with stage.here.site.ioctx() as ioctx:
        with suppress(UnmetError):  # rbd-mirror tries to delete what it replaced once in 30 s
            poll(lambda: not _in_trash(ioctx, volume), seconds=_PURGED, what="the trash is empty")
        if _in_trash(ioctx, volume):
            yield "the image is in the trash"
        records = dict(rbd.RBD().pool_metadata_list(ioctx))
        if f"csi-addons-rbd/resync/{volume.image}" in records:
            record = records[f"csi-addons-rbd/resync/{volume.image}"]
            if json.loads(record)["image_id"] not in image_ids:
                yield f"a resync record of another image: {record}"
        _await_end_of_leases(ioctx, image_ids)


def _in_trash(ioctx: rados.Ioctx, volume: Volume) -> bool:
    return any(entry["name"] == volume.image for entry in rbd.RBD().trash_list(ioctx))


def _await_end_of_leases(ioctx: rados.Ioctx, image_ids: set[str]) -> None:
    """A lease that nobody gave back runs out; one that does not would block every driver."""
    for image_id in image_ids - {""}:
        name = f"{_LEASE}{image_id}"
        with suppress(rados.ObjectNotFound):
            ioctx.stat(name)

            def free(name: str = name) -> bool:
                try:
                    ioctx.lock_exclusive(name, "csi-addons-rbd", "kills", duration=1)
                except (rados.ObjectBusy, rados.ObjectExists):
                    return False
                return True

            poll(free, seconds=_WATCHES_END, what="the lease ran out")
            ioctx.remove_object(name)


def watchers(stage: Stage, volume: Volume) -> int:
    """Count the clients that watch the image: rbd-mirror of both sites, at most."""
    with stage.here.image(volume) as image:
        return len(list(image.watchers_list()))


def await_no_stranger(stage: Stage, volumes: list[Volume]) -> list[str]:
    """Wait until no dead driver watches any more; return the images on which one still does."""
    alive = [volume for volume in volumes if stage.here.exists(volume)]
    try:
        poll(
            lambda: all(watchers(stage, volume) <= 2 for volume in alive),
            seconds=_WATCHES_END,
            what="no stranger watches",
        )
    except Exception:  # noqa: BLE001 - whatever came, these are the facts
        return [volume.image for volume in alive if watchers(stage, volume) > 2]
    return []
