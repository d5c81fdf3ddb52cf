# SPDX-License-Identifier: Apache-2.0
"""Who holds a lock on an image; the exclusive lock shows among the others, too."""

import errno
from typing import Final, TypeAlias

import rados
import rbd

from csi_addons_rbd.ceph.encoding import Encoded, decoding, structure, text

_AUTOMATIC: Final = "auto "
"""What the cookie of librbd's, or the kernel's, own exclusive lock begins with."""
_LOCK: Final = "rbd_lock"
"""What librbd calls every lock on an image."""
_LENGTH: Final = 1 << 20
"""Bytes that the answer may have: a shared lock has as many holders as like."""
_Locker: TypeAlias = tuple[str, str, str]
"""Client, such as ``client.4100``; cookie; address."""


def is_locked(ioctx: rados.Ioctx, image_id: str) -> bool:
    """Tell whether there is any lock on an image, without opening it."""
    request = structure(text(_LOCK))
    _, reply = ioctx.execute(f"rbd_header.{image_id}", "lock", "get_info", request, _LENGTH)
    with decoding("the lock of an image"):
        return Encoded(reply).structure(1).number() > 0


def holders(image: rbd.Image) -> tuple[str, ...]:
    """Name the clients other than this site's rbd-mirror that hold a lock.

    An exclusive lock outlives its owner, until the next one takes it over. An owner that does not
    watch the image any more is dead or fenced, as librbd itself judges before it takes the lock.
    """
    lockers = _lockers(image)
    if not lockers:
        return ()
    daemon = _mirror_daemon(image)
    watching = {f"client.{watcher['id']}" for watcher in image.watchers_list()}
    return tuple(
        _name(locker)
        for locker in lockers
        if locker[0] != daemon and (locker[0] in watching or not locker[1].startswith(_AUTOMATIC))
    )


def holding_mirror_daemon(image: rbd.Image) -> str | None:
    """Name this site's rbd-mirror if it holds a lock."""
    lockers = _lockers(image)
    daemon = _mirror_daemon(image) if lockers else None
    return next((_name(locker) for locker in lockers if locker[0] == daemon), None)


def _lockers(image: rbd.Image) -> list[_Locker]:
    lockers = image.list_lockers()
    return lockers["lockers"] if lockers else []


def _name(locker: _Locker) -> str:
    client, _, address = locker
    return f"{client} at {address}"


def _mirror_daemon(image: rbd.Image) -> str | None:
    """Return the client that this site's rbd-mirror handles the image with, if there is one."""
    try:
        return f"client.{image.mirror_image_get_instance_id()}"
    except (rbd.ObjectNotFound, rbd.ImageNotFound, rbd.InvalidArgument):
        return None
    except rbd.OSError as exc:
        # as for an rbd-mirror that died while it handled the image
        if exc.errno is not None and abs(exc.errno) == errno.ESTALE:
            return None
        raise
