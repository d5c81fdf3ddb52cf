# SPDX-License-Identifier: Apache-2.0
"""The resync record: whoever comes late leaves the one that was written meanwhile."""

from dataclasses import replace

import pytest
from csi_addons_conformance.stage import Stage

from csi_addons_rbd.ceph.resync_records import read_record, read_text, replace_record
from csi_addons_rbd.replication.errors import ImageChanged
from csi_addons_rbd.replication.image import ImageSpec, ResyncRecord
from lab import Volume

pytestmark = pytest.mark.safety


def test_a_late_change_spares_a_newer_record(stage: Stage, volume: Volume) -> None:
    """A driver frozen after it had read the first neither removes nor replaces the second."""
    site = stage.here.site
    spec = ImageSpec(
        cluster=site.cluster_id,
        pool=site.pool,
        pool_id=site.pool_id,
        namespace="",
        image=volume.image,
    )
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
