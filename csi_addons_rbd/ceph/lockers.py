# SPDX-License-Identifier: Apache-2.0
"""Who holds an image: by a lock, or, where the image lacks exclusive-lock, by its mere watch.

A client that has an image open for writing watches it; one that only reads does not. So does the
rbd-mirror of a peer, for as long as it follows a primary, and that of this site. They are known by
the statuses that they write with the same clients.
"""

import errno
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

import rados
import rbd

from csi_addons_rbd.ceph.encoding import Encoded, client_name, decoding, structure, text
from csi_addons_rbd.ceph.rbd_header import header_object, read_header, read_image_id
from csi_addons_rbd.ceph.rbd_mirroring import read_instances, read_mirroring, read_origins
from csi_addons_rbd.replication.image import Grip, Holder

_TAG: Final = "internal"
_AUTOMATIC: Final = re.compile(r"auto \d+")
"""The cookie of librbd's, or the kernel's, own exclusive lock; its tag is ``internal``."""
_LOCK: Final = "rbd_lock"
"""What librbd calls every lock on an image."""
_LENGTH: Final = 1 << 20
"""Bytes that the answer may have: a shared lock has as many holders as like."""


def is_locked(ioctx: rados.Ioctx, image_id: str) -> bool:
    """Tell whether there is any lock on an image, without opening it."""
    request = structure(text(_LOCK))
    _, reply = ioctx.execute(header_object(image_id), "lock", "get_info", request, _LENGTH)
    with decoding("the lock of an image"):
        return Encoded(reply).structure(1).number() > 0


def read_holders(cluster: rados.Rados, ioctx: rados.Ioctx, name: str) -> tuple[Holder, ...]:
    """Name the clients, other than rbd-mirror, that hold an image.

    An exclusive lock outlives its owner, until the next one takes it over. An owner that does not
    watch the image any more is dead, fenced, or about to watch it again.
    """
    image_id = read_image_id(ioctx, name)
    if image_id is None:
        return ()  # of format 1: never mirrored
    exclusive = bool(read_header(ioctx, image_id).features & rbd.RBD_FEATURE_EXCLUSIVE_LOCK)
    if exclusive and not is_locked(ioctx, image_id):
        return ()  # mostly so, and opening takes long
    # reading only: such an open is no watcher itself
    with rbd.Image(ioctx, image_id=image_id, read_only=True) as image:
        found = image.list_lockers()
        # asked after the locks: whoever locks watches first
        watching = {f"client.{each['id']}": str(each["addr"]) for each in image.watchers_list()}
        held = list(_lockers(cluster, found, watching)) if found else []
        if not exclusive:
            locking = {holder.client for holder in held}
            held += [
                Holder(client=client, address=address, grip=Grip.WATCH)
                for client, address in watching.items()
                if client not in locking
            ]
        # asked last: who came in between has named itself by now
        daemons = _mirror_daemons(ioctx, image, image_id) if held else frozenset()
    return tuple(holder for holder in held if holder.client not in daemons)


def read_watchers(ioctx: rados.Ioctx, name: str) -> frozenset[str]:
    """Name the clients, other than rbd-mirror, that have an image open for writing."""
    image_id = read_image_id(ioctx, name)
    if image_id is None:
        return frozenset()
    with rbd.Image(ioctx, image_id=image_id, read_only=True) as image:
        watching = frozenset(f"client.{each['id']}" for each in image.watchers_list())
        return watching - _mirror_daemons(ioctx, image, image_id) if watching else watching


def holding_mirror_daemon(image: rbd.Image) -> str | None:
    """Name this site's rbd-mirror if it holds a lock."""
    lockers = image.list_lockers()
    daemon = _mirror_daemon(image) if lockers else None
    for client, _, address in lockers["lockers"] if lockers else ():
        if client == daemon:
            return f"{client} at {address}"
    return None


def is_followed(ioctx: rados.Ioctx, image: rbd.Image) -> bool:
    """Tell whether this site's rbd-mirror has the image open, be it that it was just started."""
    daemons = read_instances(ioctx) | {_mirror_daemon(image)}
    return not daemons.isdisjoint(f"client.{each['id']}" for each in image.watchers_list())


def break_lock(ioctx: rados.Ioctx, image_id: str, holder: Holder) -> None:
    """Break the lock of a client that is fenced; harmless when it is gone."""
    request = structure(text(_LOCK), client_name(holder.client), text(holder.cookie))
    with suppress(rados.ObjectNotFound):
        ioctx.execute(header_object(image_id), "lock", "break_lock", request)


def _lockers(
    cluster: rados.Rados, found: Mapping[str, Any], watching: Collection[str]
) -> Iterator[Holder]:
    for client, cookie, address in found["lockers"]:
        grip = Grip.LOCK
        # any other lock is one of 'rbd lock add', which its maker has to take off
        managed = found["exclusive"] and found["tag"] == _TAG and _AUTOMATIC.fullmatch(cookie)
        if managed and client not in watching:
            grip = Grip.FENCED if _is_fenced(cluster, address) else Grip.SILENT
        yield Holder(client=client, address=address, grip=grip, cookie=cookie)


def _is_fenced(cluster: rados.Rados, address: str) -> bool:
    """Tell whether the cluster keeps a client out; no when it does not say."""
    command = json.dumps({"prefix": "osd blocklist ls", "format": "json"})
    status, output, _ = cluster.mon_command(command, b"")
    if status != 0:
        return False
    # the list of ranges comes behind that of addresses
    entries: list[dict[str, Any]]
    entries, _ = json.JSONDecoder().raw_decode(output.decode())
    host = address.partition("/")[0].rpartition(":")[0]
    return any(each["addr"] in (address, f"{host}:0/0") for each in entries)


def _mirror_daemons(ioctx: rados.Ioctx, image: rbd.Image, image_id: str) -> frozenset[str]:
    """Return the clients that the rbd-mirror of each site handles the image with."""
    mirroring = read_mirroring(ioctx, image_id)
    if mirroring is None:
        return frozenset()
    own = _mirror_daemon(image)
    origins = read_origins(ioctx, mirroring.global_id) | ({own} if own else set())
    return origins | read_instances(ioctx)


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
