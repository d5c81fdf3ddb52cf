# SPDX-License-Identifier: Apache-2.0
"""What librbd tells others once it has written it, told anew: it may have been killed in between.

rbd-mirror looks at an image, or for new ones, when it is told to, and otherwise never: without the
news it rests for good on what it saw before.
"""

import struct
from contextlib import suppress
from typing import Final

import rados

from csi_addons_rbd.ceph.encoding import structure, text
from csi_addons_rbd.ceph.rbd_header import header_object
from csi_addons_rbd.ceph.rbd_journal import journal_object
from csi_addons_rbd.ceph.rbd_mirroring import MIRRORING_OBJECT
from csi_addons_rbd.replication.calls import MirroringMode
from csi_addons_rbd.replication.image import MirrorView

_HEARD: Final = 2000
"""Milliseconds within which one that is alive says that it heard."""
_NOTHING: Final = ""
"""To those that watch a header or a journal: read it anew."""
_IMAGE_UPDATED: Final = 1
"""``librbd::mirroring_watcher::NOTIFY_OP_IMAGE_UPDATED``."""


def announce_history(ioctx: rados.Ioctx, view: MirrorView) -> None:
    """Tell of the image's newest mirror snapshot or tag, and of a resync that was asked for."""
    journal = view.mode is MirroringMode.JOURNAL
    _notify(ioctx, (journal_object if journal else header_object)(view.image_id), _NOTHING)


def announce_mirroring(ioctx: rados.Ioctx, view: MirrorView) -> None:
    """Tell that the image is mirrored (``librbd::mirroring_watcher::ImageUpdatedPayload``)."""
    state = struct.pack("<I", view.state.value)
    operation = struct.pack("<I", _IMAGE_UPDATED)
    news = structure(operation, state, text(view.image_id), text(view.mirroring))
    _notify(ioctx, MIRRORING_OBJECT, news.decode("ascii"))


def _notify(ioctx: rados.Ioctx, name: str, news: str) -> None:
    with suppress(rados.ObjectNotFound, rados.TimedOut):  # one that hangs need not hear of it
        ioctx.notify(name, news, timeout_ms=_HEARD)
