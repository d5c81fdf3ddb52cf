# SPDX-License-Identifier: Apache-2.0
"""Repeats librbd's notifications.

librbd writes first and notifies the watchers second. If its process is killed in between,
rbd-mirror, which reads an image when it is notified, does not see the change.
"""

import struct
from contextlib import suppress
from typing import Final

import rados

from csi_addons_rbd.ceph.encoding import structure, text
from csi_addons_rbd.ceph.rbd_header import header_object
from csi_addons_rbd.ceph.rbd_journal import journal_object
from csi_addons_rbd.ceph.rbd_mirroring import MIRRORING_OBJECT, read_mirroring
from csi_addons_rbd.replication.calls import MirroringMode
from csi_addons_rbd.replication.image import MirrorState, MirrorView

_TIMEOUT: Final = 2000
"""Milliseconds that a watcher has to acknowledge; one that does not holds up no other."""
_REFRESH: Final = ""
"""Message to the watchers of a header or a journal."""
_IMAGE_UPDATED: Final = 1
"""``librbd::mirroring_watcher::NOTIFY_OP_IMAGE_UPDATED``."""


def announce_history(ioctx: rados.Ioctx, view: MirrorView) -> None:
    """Notify the watchers of the image: of mirror snapshots, tags and a request for a resync."""
    if view.mode is MirroringMode.JOURNAL:
        _notify(ioctx, journal_object(view.image_id), _REFRESH)
    else:
        announce_header(ioctx, view.image_id)


def announce_header(ioctx: rados.Ioctx, image_id: str) -> None:
    """Notify the watchers of the image's header."""
    _notify(ioctx, header_object(image_id), _REFRESH)


def announce_mirroring(ioctx: rados.Ioctx, image_id: str) -> None:
    """Notify the watchers of the pool that the image is mirrored, if it still is."""
    mirroring = read_mirroring(ioctx, image_id)
    if mirroring is None or mirroring.state is not MirrorState.ENABLED:
        return
    # librbd::mirroring_watcher::ImageUpdatedPayload
    members = struct.pack("<II", _IMAGE_UPDATED, mirroring.state.value)
    message = structure(members, text(image_id), text(mirroring.global_id))
    _notify(ioctx, MIRRORING_OBJECT, message.decode("ascii"))


def _notify(ioctx: rados.Ioctx, name: str, message: str) -> None:
    with suppress(rados.Error):  # what was asked for is done, whoever is told
        ioctx.notify(name, message, timeout_ms=_TIMEOUT)
