# SPDX-License-Identifier: Apache-2.0
"""Volumes as ceph-csi makes them: an image, and its entries in the CSI journal."""

import uuid as uuids
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import rados
import rbd

from lab.site import Site

FEATURES: Final = (
    rbd.RBD_FEATURE_LAYERING
    | rbd.RBD_FEATURE_EXCLUSIVE_LOCK
    | rbd.RBD_FEATURE_OBJECT_MAP
    | rbd.RBD_FEATURE_FAST_DIFF
)
_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A volume and the handle by which Kubernetes knows it."""

    handle: str
    uuid: str
    image: str


def make_volume(
    site: Site,
    size: int,
    *,
    uuid: str | None = None,
    namespace: str = "",
    features: int = FEATURES,
) -> Volume:
    """Make an image of ``size`` bytes with its CSI journal."""
    with site.ioctx(namespace) as ioctx:
        return _make(ioctx, site, size, uuid=uuid or str(uuids.uuid4()), features=features)


def make_volumes(site: Site, size: int, number: int) -> list[Volume]:
    """Make many at once, over one connection."""
    with site.ioctx() as ioctx, ThreadPoolExecutor(_AT_ONCE) as executor:
        return list(
            executor.map(
                lambda _: _make(ioctx, site, size, uuid=str(uuids.uuid4()), features=FEATURES),
                range(number),
            )
        )


def _make(ioctx: rados.Ioctx, site: Site, size: int, *, uuid: str, features: int) -> Volume:
    image, request = f"csi-vol-{uuid}", f"pvc-{uuids.uuid4()}"
    rbd.RBD().create(ioctx, image, size, old_format=False, features=features)
    with rbd.Image(ioctx, image, read_only=True) as opened:
        image_id = opened.id()
    entries = {
        "csi.volname": request,
        "csi.imagename": image,
        "csi.imageid": image_id,
        "csi.volume.owner": "default",
    }
    _set_omap(ioctx, f"csi.volume.{uuid}", entries)
    _set_omap(ioctx, "csi.volumes.default", {f"csi.volume.{request}": uuid})
    return Volume(handle=handle_of(site, uuid), uuid=uuid, image=image)


def handle_of(site: Site, uuid: str) -> str:
    """Compose the handle of a volume that lies on a site."""
    return f"0001-{len(site.cluster_id):04x}-{site.cluster_id}-{site.pool_id:016x}-{uuid}"


def _set_omap(ioctx: rados.Ioctx, name: str, entries: dict[str, str]) -> None:
    with rados.WriteOpCtx() as operation:
        ioctx.set_omap(operation, tuple(entries), tuple(entries.values()))
        ioctx.operate_write_op(operation, name)
