# SPDX-License-Identifier: Apache-2.0
"""The record of a requested resync, kept in the pool's metadata because the image is deleted."""

import json
from dataclasses import asdict
from typing import Final

import rados
import rbd

from csi_addons_rbd.ceph.fault_points import step
from csi_addons_rbd.ceph.metadata import replace_metadata
from csi_addons_rbd.replication.errors import CephFailure
from csi_addons_rbd.replication.image import ImageSpec, ResyncRecord

_OBJECT: Final = "rbd_info"
"""Where librbd keeps the metadata of a pool or namespace."""


def read_record(ioctx: rados.Ioctx, spec: ImageSpec) -> ResyncRecord | None:
    """Read the record of an image that may be absent."""
    text = read_text(ioctx, spec)
    if text is None:
        return None
    try:
        return parse_record(text)
    except ValueError as exc:
        raise CephFailure(
            f"pool metadata {_key(spec)} is no record of a resync; remove it if no resync of "
            f"{spec} is under way"
        ) from exc


def read_text(ioctx: rados.Ioctx, spec: ImageSpec) -> str | None:
    """Read what stands in the record's place."""
    try:
        return rbd.RBD().pool_metadata_get(ioctx, _key(spec))
    except KeyError:
        return None


def replace_record(
    ioctx: rados.Ioctx, spec: ImageSpec, standing: str | None, record: ResyncRecord | None
) -> None:
    """Write the record, or remove it, if there still stands what was read before.

    Raises:
        ImageChanged: another driver was quicker.
    """
    value = None if record is None else json.dumps(asdict(record))
    with step("removing the resync record of" if value is None else "writing the resync record of"):
        if standing is not None:
            replace_metadata(ioctx, _OBJECT, _key(spec), standing, value)
        elif value is not None:
            # which makes the object, where there is none yet
            rbd.RBD().pool_metadata_set(ioctx, _key(spec), value)


def parse_record(text: str) -> ResyncRecord:
    """Read a record; what later versions may add to it is ignored.

    Raises:
        ValueError: the text is none.
    """
    try:
        values = json.loads(text)
        return ResyncRecord(
            image_id=str(values["image_id"]),
            requested=int(values["requested"]),
            sent=bool(values["sent"]),
            done=bool(values.get("done", False)),
        )
    except (AttributeError, KeyError, TypeError, OverflowError, RecursionError) as exc:
        raise ValueError(text) from exc


def _key(spec: ImageSpec) -> str:
    return f"csi-addons-rbd/resync/{spec.image}"
