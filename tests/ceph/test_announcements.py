# SPDX-License-Identifier: Apache-2.0
"""What librbd wrote and did not announce: it writes first, and a worker was killed in between.

The same call, repeated, finds the work done, and must still notify rbd-mirror.
"""

import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final, TypeAlias
from uuid import uuid4

import pytest
import rados
import rbd
from csi_addons_conformance.case import expect, poll, settle
from csi_addons_conformance.stage import Stage

from csi_addons_rbd.ceph.encoding import structure, text
from csi_addons_rbd.ceph.metadata import replace_metadata
from csi_addons_rbd.ceph.omaps import read_omap
from csi_addons_rbd.ceph.rbd_header import header_object
from csi_addons_rbd.ceph.rbd_journal import journal_object, read_tags
from csi_addons_rbd.ceph.rbd_mirroring import MIRRORING_OBJECT
from lab import Volume

Entries: TypeAlias = dict[str, bytes]
"""What stands in the omap of an image's header."""
_ENABLED: Final = b"\1"
_QUIET: Final = 10
"""Seconds: 5 s after its last news rbd-mirror notes how far it is, and reads the tags anew."""


@pytest.mark.timeout(300)
def test_an_enabled_image(stage: Stage) -> None:
    """The peer learns that there is such an image."""
    volume = stage.volume()
    with stage.here.site.ioctx() as ioctx:
        _enable_in_silence(ioctx, volume)
    time.sleep(_QUIET)
    assert not stage.there.exists(volume)
    expect(stage.here.client.enable(volume.handle, mirroringMode="journal"), "OK")
    stage.await_copy(volume)


@pytest.mark.timeout(300)
def test_a_demotion_by_snapshot(stage: Stage) -> None:
    """The peer gets the demotion, and may be promoted without force."""
    volume, client = stage.mirrored(), stage.here.client
    _in_silence(stage, volume, lambda image: image.mirror_image_demote())
    expect(client.demote(volume.handle), "OK")
    settle(partial(stage.there.client.promote, volume.handle), seconds=60)


@pytest.mark.timeout(400)
def test_a_snapshot_of_a_schedule_in_seconds(stage: Stage) -> None:
    """The driver takes none while the peer lacks one, so it announces that one."""
    volume = stage.mirrored(schedulingInterval="90s")  # longer than what follows
    _in_silence(stage, volume, lambda image: image.mirror_image_create_snapshot())
    newest = stage.here.mirror_snapshots(volume)[-1]["id"]
    poll(
        lambda: stage.here.mirror_snapshots(volume)[-1]["id"] > newest,
        seconds=180,
        what="another snapshot",
    )


@pytest.mark.timeout(300)
def test_a_promotion_by_journal(stage: Stage) -> None:
    """rbd-mirror of this site lets go of the image."""
    here, volume = stage.here, replace(stage, mode="journal").followed()
    time.sleep(_QUIET)
    with here.site.ioctx() as ioctx:
        _promote_in_silence(ioctx, volume)
    expect(here.client.promote(volume.handle, force=True), "OK", within=30)
    here.write(volume, b"taken over")


@pytest.mark.timeout(300)
def test_a_resync(stage: Stage) -> None:
    """rbd-mirror, which finds nothing wrong by itself, copies the image anew."""
    here, volume = stage.here, stage.followed()
    before = here.image_id(volume)
    time.sleep(_QUIET)
    with here.site.ioctx() as ioctx:
        _resync_in_silence(ioctx, before)

    def anew() -> bool:
        expect(here.client.resync(volume.handle, force=True, resyncMode="always"), "OK")
        with suppress(rbd.ImageNotFound):
            return here.image_id(volume) != before
        return False

    poll(anew, seconds=90, what="the image is another")


def _in_silence(stage: Stage, volume: Volume, act: Callable[[rbd.Image], None]) -> None:
    """Act on dr1, and take it back while dr2 is notified; then do it again behind its back."""
    header = header_object(stage.here.image_id(volume))
    with stage.here.site.ioctx() as ioctx:
        with stage.there.frozen("rbd-mirror"):
            before = read_omap(ioctx, header)
            with stage.here.image(volume, writing=True) as image:
                act(image)
            after = read_omap(ioctx, header)
            _replace_omap(ioctx, header, after, before)
        time.sleep(_QUIET)
        _replace_omap(ioctx, header, before, after)


def _enable_in_silence(ioctx: rados.Ioctx, volume: Volume) -> None:
    with rbd.Image(ioctx, volume.image) as image:
        for feature in (rbd.RBD_FEATURE_EXCLUSIVE_LOCK, rbd.RBD_FEATURE_JOURNALING):
            if not image.features() & feature:
                image.update_features(feature, enabled=True)
        mirroring = structure(text(str(uuid4())), _ENABLED)  # in the first version, by journal
        ioctx.execute(MIRRORING_OBJECT, "rbd", "mirror_image_set", text(image.id()) + mirroring)


def _promote_in_silence(ioctx: rados.Ioctx, volume: Volume) -> None:
    """Write the tag with which librbd promotes by force, and no more."""
    with rbd.Image(ioctx, volume.image, read_only=True) as image:
        image_id = image.id()
    newest = read_tags(ioctx, image_id)[-1]
    owner = newest.owner.encode()
    # TagData: this site, which is no text at all; then whose entries it goes on from, and where
    data = struct.pack(f"<II{len(owner)}sBQQ", 0, len(owner), owner, 0, 0, 0)
    tag = struct.pack(f"<QQI{len(data)}s", newest.number + 1, 0, len(data), data)
    ioctx.execute(journal_object(image_id), "journal", "tag_create", tag)


def _resync_in_silence(ioctx: rados.Ioctx, image_id: str) -> None:
    key = f".rbd_mirror.{rbd.RBD().mirror_uuid_get(ioctx)}"
    replace_metadata(ioctx, header_object(image_id), key, "", '{"resync_requested": true}')


def _replace_omap(ioctx: rados.Ioctx, name: str, standing: Entries, wanted: Entries) -> None:
    with rados.WriteOpCtx() as operation:
        ioctx.remove_omap_keys(operation, tuple(standing.keys() - wanted.keys()))
        ioctx.set_omap(operation, tuple(wanted.keys()), tuple(wanted.values()))
        ioctx.operate_write_op(operation, name)
