# SPDX-License-Identifier: Apache-2.0
"""The record of a requested resync, kept in the pool's metadata because the image is deleted."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Final

import rados
import rbd

from csi_addons_rbd.ceph.fault_points import step
from csi_addons_rbd.ceph.metadata import replace_metadata
from csi_addons_rbd.ceph.omaps import omap_pages
from csi_addons_rbd.replication.errors import CephFailure
from csi_addons_rbd.replication.image import ImageSpec, ResyncRecord

_PREFIX: Final = "csi-addons-rbd/resync/"
_OBJECT: Final = "rbd_info"
"""Where librbd keeps the metadata of a pool or namespace."""


def read_record(ioctx: rados.Ioctx, spec: ImageSpec) -> ResyncRecord | None:
    """Read the record of an image that may be absent."""
    return record_in(read_text(ioctx, spec), spec)


def read_unfinished(
    ioctx: rados.Ioctx, specs: Iterable[ImageSpec]
) -> Iterator[tuple[ImageSpec, ResyncRecord]]:
    """Yield those of the images whose records say that a resync has not ended, with these."""
    for spec in specs:
        record = read_record(ioctx, spec)
        if record is not None and not record.done:
            yield spec, record


def recorded_names(ioctx: rados.Ioctx) -> tuple[str, ...]:
    """Name the images of which there are records in a pool or namespace.

    Raises:
        CephFailure: a name is no text.
    """
    prefix = f"metadata_{_PREFIX}"
    try:
        pages = omap_pages(ioctx, _OBJECT, prefix)
        return tuple(key.removeprefix(prefix) for page in pages for key in page)
    except rados.ObjectNotFound:
        return ()
    except UnicodeDecodeError as exc:
        raise CephFailure(
            f"a key below {prefix} of {_OBJECT} is no UTF-8, so which image is to be copied anew "
            "is not known; see 'rados listomapkeys', and remove it if no resync is under way"
        ) from exc


def record_in(text: str | None, spec: ImageSpec) -> ResyncRecord | None:
    """Read what stands in the record's place.

    Raises:
        CephFailure: it is no record.
    """
    try:
        return None if text is None else parse_record(text)
    except ValueError as exc:
        raise _none(spec) from exc


def read_text(ioctx: rados.Ioctx, spec: ImageSpec) -> str | None:
    """Read what stands in the record's place."""
    try:
        return rbd.RBD().pool_metadata_get(ioctx, _key(spec))
    except KeyError:
        return None
    except UnicodeDecodeError as exc:
        raise _none(spec) from exc


def _none(spec: ImageSpec) -> CephFailure:
    namespace = f" --namespace {spec.namespace}" if spec.namespace else ""
    return CephFailure(
        f"pool metadata {_key(spec)} of pool {spec.pool} on cluster {spec.cluster} is no record of "
        f"a resync; if none of {spec} is under way, remove it with 'rados --pool {spec.pool}"
        f"{namespace} rmomapkey {_OBJECT} metadata_{_key(spec)}'"
    )


def replace_record(
    ioctx: rados.Ioctx, spec: ImageSpec, standing: str | None, record: ResyncRecord | None
) -> None:
    """Write the record, or remove it, if there still stands what was read before.

    Raises:
        ImageChanged: another driver was quicker.
    """
    value = None if record is None else json.dumps(asdict(record))
    with step("removing the resync record of" if value is None else "writing the resync record of"):
        if standing is None:
            with rados.WriteOpCtx() as operation:
                operation.new(rados.LIBRADOS_CREATE_IDEMPOTENT)
                ioctx.operate_write_op(operation, _OBJECT)
        replace_metadata(ioctx, _OBJECT, _key(spec), standing or "", value)


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
            mirroring=str(values.get("mirroring", "")),
            gone=int(values.get("gone", 0)),
        )
    except (AttributeError, KeyError, TypeError, OverflowError, RecursionError) as exc:
        raise ValueError(text) from exc


def _key(spec: ImageSpec) -> str:
    return f"{_PREFIX}{spec.image}"
