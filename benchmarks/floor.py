# SPDX-License-Identifier: Apache-2.0
"""The floor: bare librbd doing what a call asks for, on one connection that stays open.

No gRPC, no checks, no lease. It runs in a process of its own, see ``aside``.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import rados
import rbd

from benchmarks.timings import Timings
from lab import Site

_OPEN: Final[dict[str, Any]] = {}
"""The connection of this process, and its pool."""
_FORCE: Final = False
_RETRY: Final = 0.1
_LOOK: Final = 0.25
_LOOKING: Final = 8
"""Images that are looked at at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach a site's pool: with the driver's own user."""

    monitors: str
    pool: str
    user: str
    key: str = field(repr=False)

    @classmethod
    def to(cls, site: Site) -> "Access":
        """Take it from a site of the lab."""
        return cls(
            monitors=",".join(site.monitors),
            pool=site.pool,
            user=site.secrets["userID"],
            key=site.secrets["userKey"],
        )


def connect(access: Access) -> None:
    """Connect this process for good."""
    cluster = rados.Rados(
        rados_id=access.user, conf={"mon_host": access.monitors, "key": access.key}
    )
    cluster.connect()
    _OPEN.update(cluster=cluster, ioctx=cluster.open_ioctx(access.pool))


def client_id() -> int:
    """Return the number by which the cluster knows this process."""
    return int(_OPEN["cluster"].get_instance_id())


# --- what a call does, without the driver --------------------------------------------------------


def read_status(name: str) -> None:
    """Open read-only, read the mirror status, close."""
    with rbd.Image(_OPEN["ioctx"], name, read_only=True) as image:
        image.mirror_image_get_status()


def enable(name: str) -> None:
    """Switch mirroring by snapshots on."""
    with rbd.Image(_OPEN["ioctx"], name) as image:
        image.mirror_image_enable(rbd.RBD_MIRROR_IMAGE_MODE_SNAPSHOT)


def demote(name: str) -> None:
    """Demote."""
    with rbd.Image(_OPEN["ioctx"], name) as image:
        image.mirror_image_demote()


def promote(name: str) -> None:
    """Promote, again while rbd-mirror has not let go of the image."""
    while True:
        try:
            with rbd.Image(_OPEN["ioctx"], name) as image:
                image.mirror_image_promote(_FORCE)
        except (rbd.ImageBusy, rbd.ReadOnlyImage):
            time.sleep(_RETRY)
        else:
            return


def each(operation: Callable[[str], None], names: Sequence[str], *, threads: int) -> Timings:
    """Do something to each image, so many at once."""

    def timed(name: str) -> float:
        began = time.monotonic()
        operation(name)
        return time.monotonic() - began

    with ThreadPoolExecutor(threads) as executor:
        began = time.monotonic()
        seconds = list(executor.map(timed, names))
        return Timings(began=began, ended=time.monotonic(), seconds=seconds)


# --- waiting, the same for the driver and for the floor -------------------------------------------


def await_followed(names: Sequence[str], patience: float) -> None:
    """On the copies' site: wait until they are whole and of what was promoted last.

    The images themselves tell, half a minute before the statuses do.
    """

    def left(names: Sequence[str]) -> list[str]:
        with ThreadPoolExecutor(_LOOKING) as executor:
            followed = executor.map(_follows, names)
            return [name for name, done in zip(names, followed, strict=True) if not done]

    _await(left, names, "whole copies of a primary", patience)


def await_told(names: Sequence[str], patience: float) -> None:
    """On the primaries' site: wait until their statuses tell of a first copy that follows."""
    _await(partial(_unlisted, _is_followed), names, "told to be followed", patience)


def await_picked_up(names: Sequence[str], patience: float) -> None:
    """On the copies' site: wait until rbd-mirror has the last data of demoted primaries."""
    _await(partial(_unlisted, _picked_up), names, "picked up after the demotion", patience)


def _await(
    left: Callable[[Sequence[str]], list[str]], names: Sequence[str], what: str, patience: float
) -> None:
    deadline = time.monotonic() + patience
    number = len(names)
    while names := left(names):
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{len(names)} of {number} images are not {what} after {patience:.0f} s, "
                f"such as {min(names)}"
            )
        time.sleep(_LOOK)


def _follows(name: str) -> bool:
    try:
        with rbd.Image(_OPEN["ioctx"], name, read_only=True) as image:
            snaps = [snap for snap in image.list_snaps() if "mirror" in snap]
    except rbd.ImageNotFound:
        return False
    newest = max(snaps, key=lambda snap: snap["id"], default=None)
    return (
        newest is not None
        and newest["mirror"]["state"] == rbd.RBD_SNAP_MIRROR_STATE_NON_PRIMARY
        and newest["mirror"]["complete"]
    )


def _unlisted(fits: Callable[[Mapping[str, Any]], bool], names: Sequence[str]) -> list[str]:
    """Return the images whose status, of all in the pool, is not as it should be."""
    listed = rbd.RBD().mirror_image_status_list(_OPEN["ioctx"])
    done = {status["name"] for status in listed if fits(status)}
    return [name for name in names if name not in done]


def _is_followed(status: Mapping[str, Any]) -> bool:
    # a peer that is about to begin says neither what it has nor that it has nothing
    return any(
        peer["up"] and "local_snapshot_timestamp" in peer["description"]
        for peer in status["remote_statuses"]
    )


def _picked_up(status: Mapping[str, Any]) -> bool:
    # before its first status of an image a site has none of these keys; Ceph 16 replaces the
    # description of an unknown state in a list, so it tells nothing here
    return bool(status.get("up")) and status["state"] == rbd.MIRROR_IMAGE_STATUS_STATE_UNKNOWN
