# SPDX-License-Identifier: Apache-2.0
"""Clones: the images that they hang on, and the manager's task that makes them independent."""

import json
from typing import Final

import rados
import rbd

from csi_addons_rbd.ceph.fault_points import step
from csi_addons_rbd.ceph.schedules import require_done
from csi_addons_rbd.ceph.translate import translating
from csi_addons_rbd.ceph.uuid_search import trashed
from csi_addons_rbd.replication.image import ImageSpec, Parent

_DEEPEST: Final = 16
"""Parents that are named: librbd itself allows no deeper chain."""


def read_parents(cluster: rados.Rados, image: rbd.Image) -> tuple[Parent, ...]:
    """Follow the chain of parents upwards; they may lie in other pools, and in the trash."""
    try:
        spec, image_id = image.get_parent_image_spec(), image.parent_id()
    except rbd.ImageNotFound:
        return ()
    with cluster.open_ioctx(spec["pool_name"]) as ioctx:
        ioctx.set_namespace(spec["pool_namespace"])
        with rbd.Image(ioctx, image_id=image_id, read_only=True) as opened:
            parent = Parent(
                path="/".join(
                    part
                    for part in (spec["pool_name"], spec["pool_namespace"], spec["image_name"])
                    if part
                ),
                mirrored=opened.mirror_image_get_info()["state"] == rbd.RBD_MIRROR_IMAGE_ENABLED,
                trashed=image_id in trashed(ioctx),
            )
            return (parent, *read_parents(cluster, opened))[:_DEEPEST]


def flatten(cluster: rados.Rados, spec: ImageSpec) -> str:
    """Add the task to the manager's queue, or find the one that is there, and tell its progress.

    Raises:
        ManagerUnavailable: the manager refuses.
        PermissionDenied: the caps for the manager are missing.
    """
    doing = f"adding a task that flattens {spec}"
    command = {"prefix": "rbd task add flatten", "image_spec": spec.path}
    with translating(doing), step("flattening"):
        code, out, status = cluster.mgr_command(json.dumps(command), b"")
    require_done(code, status, doing)
    progress = json.loads(out or "{}").get("progress", 0)
    return f"{100 * progress:.0f} %"
