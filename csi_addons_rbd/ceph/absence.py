# SPDX-License-Identifier: Apache-2.0
"""What is left of an image that is not found by its name: another name, the trash, a resync."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

import rados

from csi_addons_rbd.ceph.mirror import CephImage
from csi_addons_rbd.ceph.resync_records import read_record, recorded_names
from csi_addons_rbd.ceph.sightings import NOT_FOUND, Sighting, look_at
from csi_addons_rbd.ceph.uuid_search import Elsewhere, TimeOverError, Trace, ends_in, traces
from csi_addons_rbd.replication.calls import Call, DisableCall
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import VolumeElsewhere
from csi_addons_rbd.replication.image import Absent, ImageSpec


def find_recreated(ioctx: rados.Ioctx, image: CephImage) -> Absent | None:
    """Find the record of a resync that will bring the image back, whatever its prefix."""
    ours = image.spec.image
    others = (each for each in recorded_names(ioctx) if ends_in(each.encode(), image.uuid))
    for name in dict.fromkeys((ours, *others)):
        named = replace(image, spec=replace(image.spec, image=name))
        record = read_record(ioctx, named.spec)
        if record is not None and not record.done:
            return Absent(image=named, record=record)
    return None


def find_traces(ioctx: rados.Ioctx, image: CephImage, until: Deadline) -> tuple[Trace, ...]:
    """Find the images of that name, or whose names end in the uuid.

    Raises:
        VolumeElsewhere: the time was over before all names were read.
    """
    try:
        return traces(ioctx, image.uuid, until, image.spec.image)
    except TimeOverError:
        raise VolumeElsewhere(
            f"{image.spec} is not there, and the time of the call ended before the other images of "
            f"pool {image.spec.pool} were looked at for {image.uuid}: the search is unfinished, so "
            "absence is not proven; allow calls more time with --call-timeout"
        ) from None


def look_at_those_in_use(ioctx: rados.Ioctx, seen: Iterable[Trace]) -> Mapping[Trace, Sighting]:
    """Look at those that are in use; a name may outlive its image, and is none then."""
    found: dict[Trace, Sighting] = {}
    for trace in seen:
        if not trace.source:
            with suppress(rados.ObjectNotFound):
                found[trace] = look_at(ioctx, trace.name) if trace.is_text else NOT_FOUND
    return found


def require_only_one(
    image: CephImage,
    in_use: Mapping[Trace, Sighting],
    seen: Iterable[Trace],
    call: Call,
    named: Callable[[str], bool],
) -> CephImage:
    """Return the only image whose name ends in the uuid, if it is mirrored.

    Or if ``named`` tells that a journal in another pool names it. Disable may also find that it is
    mirrored no longer.

    Raises:
        VolumeElsewhere: there are several, or which it is proves nothing.
    """
    spec = image.spec
    where = _where(spec)
    kept = [each for each in seen if each.source and not each.of_mirroring]
    said = (
        f"{spec}, as volume {call.volume} would be called without a CSI journal, is not there, but "
    )
    if kept or len(in_use) > 1:
        names = ", ".join(each.at(where) for each in (*in_use, *kept))
        raise VolumeElsewhere(
            f"{said}several images have names that end in its uuid: {names}; which of them is the "
            "volume is not known; rename those that are not"
        )
    ((trace, sighting),) = in_use.items()
    if not trace.is_text:
        raise VolumeElsewhere(
            f"{said}{trace.at(where)} is, whose name is no UTF-8, so that it cannot be opened; "
            "rename it"
        )
    proven = sighting.mirroring is not None or isinstance(call, DisableCall)
    if not proven and not named(trace.name):
        raise VolumeElsewhere(
            f"{said}{trace.at(where)} is, which is not mirrored, so whether it is the volume is "
            "not proven; if it is, have ceph-csi write the journal (its omap generator), or run "
            f"'rbd mirror image enable {trace.at(where)} snapshot' (or journal); if not, rename it"
        )
    return replace(image, spec=replace(spec, image=trace.name), found=sighting)


def told(spec: ImageSpec, trashed: Iterable[Trace]) -> str:
    """Say which images are in the trash, and what is to be done about each."""
    where = _where(spec)
    return "; ".join(f"{where}/{each.name} is in the trash: {each.fate}" for each in trashed)


def _where(spec: ImageSpec) -> str:
    return "/".join(part for part in (spec.pool, spec.namespace) if part)


def not_absent(call: Call, rest: Elsewhere, cluster: str, searched: str) -> VolumeElsewhere:
    """Return the error for a volume of which something was found, or may be, in other pools."""
    said = [f"volume {call.volume} is not where its handle leads ({searched})"]
    if rest.found:
        said.append(
            f"but on cluster {cluster} there is {', '.join(rest.found)}, whose name ends in its "
            "uuid; if that is the volume, map the handle to that pool in cluster-mapping.json (a "
            "namespace: in config.json); if it is not, rename it"
        )
    if rest.unfinished:
        said.append(
            f"the search for its uuid on cluster {cluster} is unfinished, so its absence is not "
            f"proven: {'; '.join(rest.unfinished)}; let client.{call.credentials.user} read these "
            "pools ('profile rbd-read-only' for osd), and bring back those that do not answer"
        )
    return VolumeElsewhere("; ".join(said))
