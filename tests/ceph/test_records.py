# SPDX-License-Identifier: Apache-2.0
"""The resync record: whoever comes late leaves the one that was written meanwhile."""

import time
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
import rados
import rbd
from csi_addons_conformance.case import expect
from csi_addons_conformance.client import Answer
from csi_addons_conformance.stage import Stage

from csi_addons_rbd.ceph.resync_records import read_record, read_text, replace_record
from csi_addons_rbd.replication.errors import ImageChanged
from csi_addons_rbd.replication.image import ImageSpec, ResyncRecord
from lab import Volume

pytestmark = pytest.mark.safety


def spec_of(stage: Stage, volume: Volume) -> ImageSpec:
    """Name the volume's image on dr1."""
    site = stage.here.site
    return ImageSpec(
        cluster=site.cluster_id,
        pool=site.pool,
        pool_id=site.pool_id,
        namespace="",
        image=volume.image,
    )


def test_a_late_change_spares_a_newer_record(stage: Stage, volume: Volume) -> None:
    """A driver frozen after it had read the first neither removes nor replaces the second."""
    site, spec = stage.here.site, spec_of(stage, volume)
    first = ResyncRecord(image_id="1", requested=1, sent=False)
    second = replace(first, image_id="2", sent=True)
    with site.ioctx() as ioctx:
        replace_record(ioctx, spec, None, first)
        old = read_text(ioctx, spec)
        replace_record(ioctx, spec, old, second)
        for late in (None, first):
            with pytest.raises(ImageChanged):
                replace_record(ioctx, spec, old, late)
        assert read_record(ioctx, spec) == second
        replace_record(ioctx, spec, read_text(ioctx, spec), None)
        assert read_record(ioctx, spec) is None


def test_a_record_that_appears_meanwhile_is_spared(stage: Stage, volume: Volume) -> None:
    """Who saw none writes none over it, in a pool that has no metadata yet either."""
    ours = ResyncRecord(image_id="1", requested=1, sent=False)
    with stage.here.site.ioctx() as ioctx:
        spec = spec_of(stage, volume)
        replace_record(ioctx, spec, None, ours)
        with pytest.raises(ImageChanged):
            replace_record(ioctx, spec, None, replace(ours, image_id="2"))
        assert read_record(ioctx, spec) == ours
        ioctx.set_namespace("without metadata")
        replace_record(ioctx, spec, None, ours)
        assert read_record(ioctx, spec) == ours


@pytest.mark.parametrize(
    ("stands", "forgotten"),
    [
        (b"", True),
        (b"[]", True),
        (b"no JSON", True),
        (b'{"image_id":1,"requested":1e999,"sent":1}', True),
        ('{"by":"Jürgen"}'.encode(), True),
        (b"\xff", False),  # cannot be compared, and so is not removed
    ],
)
def test_a_record_of_the_wrong_shape_is_named(
    stage: Stage, volume: Volume, stands: bytes, *, forgotten: bool
) -> None:
    """It is no fault of programming, and whoever forgets records gets past it if it is text."""
    key, client = f"csi-addons-rbd/resync/{volume.image}", stage.here.client
    with stage.here.site.ioctx() as ioctx:
        with rados.WriteOpCtx() as operation:
            ioctx.set_omap(operation, (f"metadata_{key}",), (stands,))
            ioctx.operate_write_op(operation, "rbd_info")
        told = (key, f"--pool {stage.here.site.pool} rmomapkey")
        expect(client.demote(volume.handle), "UNAVAILABLE", saying=told)
        expect(client.enable(volume.handle), "OK")
        expect(client.disable(volume.handle), "OK" if forgotten else "UNAVAILABLE")


def test_a_resync_of_an_image_whose_mirroring_is_off_is_let_go_by_force(
    stage: Stage, volume: Volume
) -> None:
    """Nobody would ever delete or fill it: the refusal names the way out, which works."""
    spec, client = spec_of(stage, volume), stage.here.client
    own = stage.here.image_id(volume)
    with stage.here.site.ioctx() as ioctx:
        record = ResyncRecord(image_id="another", requested=1, sent=True)
        replace_record(ioctx, spec, None, record)
        expect(client.disable(volume.handle, force="true"), "ABORTED", saying=("copied anew",))
        own_record = replace(record, image_id=own)
        replace_record(ioctx, spec, read_text(ioctx, spec), own_record)
        expect(client.disable(volume.handle), "ABORTED", saying=("force=true",))
        assert read_record(ioctx, spec) == own_record
        expect(client.disable(volume.handle, force="true"), "OK")
        assert read_record(ioctx, spec) is None


def test_an_image_that_is_gone_for_long_is_let_go(stage: Stage) -> None:
    """Only by force, and only when nothing of it was there for ten minutes."""
    other = stage.mirrored()  # by whose status rbd-mirror is known to be up
    gone = stage.volume()
    site, client = stage.here.site, stage.here.client
    record = ResyncRecord(image_id="1234", requested=1, sent=True, mirroring=str(uuid4()))
    spec = spec_of(stage, gone)
    site.rbd("trash", "mv", f"{site.pool}/{gone.image}")

    def answers(force: str, **changed: Any) -> tuple[Answer, ResyncRecord | None]:
        replace_record(ioctx, spec, read_text(ioctx, spec), replace(record, **changed))
        return client.disable(gone.handle, force=force), read_record(ioctx, spec)

    with site.ioctx() as ioctx:
        old = int(time.time()) - 601
        answer, left = answers("true", gone=old)
        expect(answer, "ABORTED", saying=("an entry in the trash",))
        assert left == record
        (trashed,) = (each["id"] for each in rbd.RBD().trash_list(ioctx))
        site.rbd("trash", "rm", f"{site.pool}/{trashed}")
        with stage.here.image(other) as image:
            global_id = image.mirror_image_get_info()["global_id"]
        answer, left = answers("true", gone=old, mirroring=global_id)
        expect(answer, "ABORTED", saying=("a mirroring of its global id", "a status of it"))
        answer, left = answers("true")
        expect(answer, "ABORTED", saying=("no trace of it",))
        assert left is not None
        assert left.gone == pytest.approx(time.time(), abs=10)
        answer, left = answers("false", gone=old)
        expect(answer, "ABORTED")
        assert left is not None
        expect(client.promote(gone.handle, force=True), "ABORTED")
        answer, left = answers("true", gone=old)
        expect(answer, "OK")
        assert left is None
    expect(client.disable(gone.handle), "NOT_FOUND")
