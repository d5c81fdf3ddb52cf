# SPDX-License-Identifier: Apache-2.0
"""What is left of an image that is not found by its name: another name, the trash, a resync."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import rados

from csi_addons_rbd.ceph.mirror import CephImage
from csi_addons_rbd.ceph.resync_records import read_unfinished, recorded_names
from csi_addons_rbd.ceph.sightings import NOT_FOUND, Sighting, look_at
from csi_addons_rbd.ceph.uuid_search import (
    Elsewhere,
    Gap,
    TimeOverError,
    Trace,
    ends_in,
    gap_of,
    traces,
)
from csi_addons_rbd.replication.calls import Call, DisableCall, EnableCall, PromoteCall
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import (
    NOTHING_TO_DO,
    DriverError,
    ImageBeingDeleted,
    VolumeElsewhere,
)
from csi_addons_rbd.replication.image import Absent, ImageSpec

InUse: TypeAlias = Mapping[Trace, Sighting]
"""Images that are in use, and what was seen of each."""
_IN_THE_TRASH: Final = (
    "what is in the trash and is not the volume gets another name with 'rbd trash restore --image'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Namesake:
    """An image that may be the volume, and is not mirrored.

    Then Disable has nothing to do, unless the volume is another one.
    """

    image: CephImage


def find_recreated(ioctx: rados.Ioctx, image: CephImage) -> Absent | InUse:
    """Look for what resyncs under way copy anew, whatever its prefix.

    Returns the first that is not back yet, or all of them when each is in use again.
    """
    ours = image.spec.image
    others = (each for each in recorded_names(ioctx) if ends_in(each.encode(), image.uuid))
    names = dict.fromkeys((ours, *others))
    back: dict[Trace, Sighting] = {}
    specs = (replace(image.spec, image=name) for name in names)
    for spec, record in read_unfinished(ioctx, specs):
        try:
            back[Trace(raw=spec.image.encode())] = look_at(ioctx, spec.image)
        except rados.ObjectNotFound:
            return Absent(image=replace(image, spec=spec), record=record)
    return back


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


def look_at_those_in_use(ioctx: rados.Ioctx, seen: Iterable[Trace], back: InUse) -> InUse:
    """Look at those that are in use, beside those that are back after a resync.

    A name may outlive its image, and is none then.
    """
    found = dict(back)
    for trace in seen:
        if not trace.source and trace not in back:
            with suppress(rados.ObjectNotFound):
                found[trace] = look_at(ioctx, trace.name) if trace.is_text else NOT_FOUND
    return found


def choose(
    image: CephImage,
    in_use: InUse,
    seen: Iterable[Trace],
    call: Call,
    named: Callable[[Trace], bool],
) -> CephImage | Namesake:
    """Return the only image whose name ends in the uuid, if that proves to be the volume.

    It does if it is mirrored, or ``named``: a journal in another pool names it, or the record of a
    resync under way.

    Raises:
        ImageBeingDeleted: it does not, and rbd-mirror is deleting another.
        VolumeElsewhere: there are several, or which it is proves nothing.
    """
    spec = image.spec
    where = _where(spec)
    seen = tuple(seen)
    kept = [each for each in seen if each.source and not each.of_mirroring]
    said = (
        f"{spec}, as volume {call.volume} would be called without a CSI journal, is not there, but "
    )
    if kept or len(in_use) > 1:
        raise VolumeElsewhere(_several(said, where, tuple(in_use), kept))
    ((trace, sighting),) = in_use.items()
    if not trace.is_text:
        raise VolumeElsewhere(
            f"{said}{trace.at(where)} is, whose name is no UTF-8, so that it cannot be opened; "
            "rename it"
        )
    chosen = replace(image, spec=replace(spec, image=trace.name), found=sighting)
    if sighting.mirroring is not None or named(trace):
        return chosen
    require_none_going(spec, seen)
    if isinstance(call, DisableCall):
        return Namesake(image=chosen)
    raise VolumeElsewhere(
        f"{said}{trace.at(where)} is, which is not mirrored, so whether it is the volume is not "
        f"proven; if it is, {_proof(call, trace.at(where))}; if not, rename it"
    )


def require_none_going(spec: ImageSpec, seen: Iterable[Trace]) -> None:
    """Require that rbd-mirror is deleting none of them.

    Raises:
        ImageBeingDeleted: it is.
    """
    going = ", ".join(f"{_where(spec)}/{each.name}" for each in seen if each.of_mirroring)
    if going:
        raise ImageBeingDeleted(
            f"{going} is being deleted by rbd-mirror, since its primary is mirrored no longer; "
            f"{NOTHING_TO_DO}"
        )


def told(spec: ImageSpec, trashed: Sequence[Trace]) -> str:
    """Say which images are in the trash, and what is to be done about them."""
    where = _where(spec)
    if len(trashed) == 1:
        return f"{where}/{trashed[0].name} is in the trash: {trashed[0].fate}"
    return (
        f"names of several images end in its uuid: {_listed(trashed, where)}; which of them is the "
        f"volume is not known; bring that back with 'rbd trash restore'; {_IN_THE_TRASH}"
    )


def not_absent(
    call: Call,
    rest: Elsewhere,
    searched: str,
    *,
    obstacles: Sequence[DriverError] = (),
    namesakes: Sequence[Namesake] = (),
) -> VolumeElsewhere:
    """Return the error for a volume of which something was found, or may be, elsewhere."""
    said = [f"volume {call.volume} was not found where its handle leads ({searched})"]
    if namesakes:
        images = ", ".join(str(each.image.spec) for each in namesakes)
        said.append(
            f"but {images}, whose name ends in its uuid, is, and is not mirrored, so whether it is "
            "the volume is not proven; if it is, have ceph-csi write the journal (its omap "
            "generator)"
        )
    if rest.found:
        names = ", ".join(each.text for each in rest.found)
        said.append(
            f"but on cluster {rest.cluster} there is {names}, whose name ends in its uuid; "
            f"{'; '.join(dict.fromkeys(each.advice for each in rest.found))}"
        )
    gaps = [*(gap_of("where the handle leads", each) for each in obstacles), *rest.unfinished]
    if gaps:
        said.append(_unproven(call, rest.cluster, gaps))
    return VolumeElsewhere("; ".join(said))


def _unproven(call: Call, cluster: str, gaps: Iterable[Gap]) -> str:
    """Say where it was not looked, and only what helps there."""
    gaps = tuple(gaps)
    remedies = dict.fromkeys(each.remedy for each in gaps if each.remedy)
    said = (
        f"the search for its uuid on cluster {cluster} is unfinished, so its absence is not "
        f"proven: {'; '.join(each.what for each in gaps)}"
    )
    user = f"client.{call.credentials.user}"
    return "; ".join((said, *(each.format(user=user) for each in remedies)))


def _several(said: str, where: str, in_use: Sequence[Trace], kept: Sequence[Trace]) -> str:
    advice = ["rename those in use that are not"] if in_use else []
    if kept:
        advice.append(_IN_THE_TRASH)
    return (
        f"{said}several images have names that end in its uuid: "
        f"{_listed((*in_use, *kept), where)}; which of them is the volume is not known; "
        f"{'; '.join(advice)}"
    )


def _proof(call: Call, image: str) -> str:
    """Say how to prove that an image is the volume.

    On a secondary site switching mirroring on would make a second primary, so it is advised only
    to whoever wants the image mirrored, and primary.
    """
    journal = "have ceph-csi write the journal (its omap generator)"
    if isinstance(call, EnableCall | PromoteCall):
        return f"{journal}, or run 'rbd mirror image enable {image} snapshot' (or journal)"
    return journal


def _listed(some: Iterable[Trace], where: str) -> str:
    return ", ".join(each.at(where) for each in some)


def _where(spec: ImageSpec) -> str:
    return "/".join(part for part in (spec.pool, spec.namespace) if part)
