# SPDX-License-Identifier: Apache-2.0
"""EnableVolumeReplication and DisableVolumeReplication: mirroring of one image on and off."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from csi_addons_rbd.replication.calls import EnableCall, FlattenMode, MirroringMode
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import (
    NOTHING_TO_DO,
    Flattening,
    ImageChanged,
    ImageMigrating,
    ImageTorn,
    MirroringDisabling,
    ModeMismatch,
    NoCompleteCopy,
    ParentNotMirrored,
    PoolNotMirrored,
    SecondaryUnhealthy,
)
from csi_addons_rbd.replication.image import (
    Epoch,
    ImageSpec,
    LeasedImage,
    MirroredImage,
    MirrorState,
    MirrorView,
    PoolMirroring,
    SiteState,
    Torn,
)
from csi_addons_rbd.replication.notes import SWITCHING
from csi_addons_rbd.replication.observations import Observation
from csi_addons_rbd.replication.patience import POLL
from csi_addons_rbd.replication.sync_info import Role, role, text
from csi_addons_rbd.replication.torn import (
    require_lasting,
    require_room,
    snapshots_to_promote,
    words,
)
from csi_addons_rbd.replication.torn_repair import make_writable

_HALF_DISABLED: Final = (MirrorState.DISABLING, MirrorState.TORN)
_BY_SNAPSHOTS: Final = (MirroringMode.SNAPSHOT,)
_ENABLED: Final = (MirrorState.ENABLED, MirrorState.CREATING)
_INSTEAD: Final = {
    PoolMirroring.DISABLED: "off",
    PoolMirroring.POOL: "set to whole pools",
    PoolMirroring.INIT_ONLY: "on for its namespaces only",
}
"""What a pool's mirroring is where its images are not mirrored one by one."""


def enable(image: MirroredImage, view: MirrorView, call: EnableCall, until: Deadline) -> bool:
    """Switch mirroring on, unless it is on in the mode asked for; tell whether it was off.

    Raises:
        ModeMismatch: it is on in the other mode.
        MirroringDisabling: it is just being switched off.
        PoolNotMirrored: pool or namespace are not set to mirror single images.
        ImageMigrating: a live migration of it has not ended.
        SnapshotLimitReached: there is no room for the first mirror snapshot.
        ParentNotMirrored: the image is a clone whose parent is not mirrored.
        Flattening: it is being made independent of its parent.
    """
    if view.state is MirrorState.DISABLING:
        raise _being_switched_off(image.spec)
    if view.state in _ENABLED:
        if view.mode is not call.mode:
            raise ModeMismatch(
                f"{image.spec} is mirrored in {view.mode} mode, mirroringMode asks for "
                f"{call.mode}; disable replication first to change the mode"
            )
        _end_switching(image, view, until)
        return False
    _require_image_mirroring(image)
    _require_not_migrating(image)
    _settle_parents(image, call)
    with image.lease(until) as leased:
        _require_unchanged(leased, view)
        if call.mode in _BY_SNAPSHOTS:
            require_room(leased, replace(view, primary=True), 1)  # it can be written
        if view.state is MirrorState.TORN:
            leased.disable(force=True)
        with _switching(leased):
            leased.enable(call.mode)
    if image.view().state not in _ENABLED:
        raise ImageChanged(f"mirroring of {image.spec} was enabled, but reads off; {NOTHING_TO_DO}")
    return True


def _being_switched_off(spec: ImageSpec) -> MirroringDisabling:
    return MirroringDisabling(
        f"mirroring of {spec} is being switched off; the controller "
        f"retries; if it lasts for minutes, 'rbd status {spec.path}' shows who has it open"
    )


@contextmanager
def _switching(image: MirroredImage) -> Iterator[None]:
    """Note that mirroring is being switched: a crash leaves what librbd cannot tell from a copy.

    An error may leave it, too; the note goes when all is as it was before, or done.
    """
    image.note(SWITCHING, "yes")
    try:
        yield
    finally:
        if image.view().state is not MirrorState.TORN:
            image.note(SWITCHING, None)


def _end_switching(image: MirroredImage, view: MirrorView, until: Deadline) -> None:
    """Take the note off that a crash left on an image whose mirroring is on, and stays on."""
    if SWITCHING in view.notes:
        with image.lease(until) as leased:
            _require_unchanged(leased, view)
            leased.note(SWITCHING, None)


def _require_unchanged(image: MirroredImage, view: MirrorView) -> MirrorView:
    now = image.view()
    if (now.state, now.mirroring, now.primary) != (view.state, view.mirroring, view.primary):
        raise ImageChanged(
            f"mirroring of {image.spec} was switched, or the image promoted or demoted, by another "
            f"driver meanwhile; {NOTHING_TO_DO}"
        )
    return now


def _settle_parents(image: MirroredImage, call: EnableCall) -> None:
    """Let pass what rbd-mirror can copy: an image of its own, or a clone of a mirrored one."""
    parents = image.parents()
    if not parents:
        return
    chain = ", a clone of ".join(map(str, parents))
    if call.flatten is FlattenMode.FORCE:
        raise Flattening(
            f"{image.spec} is a clone of {chain}; the manager is making it independent, "
            f"{image.flatten()} done; the controller retries; if it stands still, see 'ceph rbd "
            "task list'"
        )
    if parents[0].trashed or not parents[0].mirrored:
        raise ParentNotMirrored(
            f"{image.spec} is a clone of {chain}, so it cannot be mirrored by itself; enable "
            "replication of the parent, or set the parameter flattenMode=force"
        )


def _require_not_migrating(image: MirroredImage) -> None:
    if image.migrating():
        path = image.spec.path
        raise ImageMigrating(
            f"{image.spec} is in the middle of a live migration, and librbd mirrors no such image; "
            f"end it with 'rbd migration execute {path}' and 'rbd migration commit {path}', or "
            f"take it back with 'rbd migration abort {path}'; the controller retries by itself"
        )


def _require_image_mirroring(image: MirroredImage) -> None:
    spec = image.spec
    mirroring = image.pool_mirroring()
    if mirroring is PoolMirroring.IMAGE:
        return
    place = "/".join(part for part in (spec.pool, spec.namespace) if part)
    raise PoolNotMirrored(
        f"mirroring of pool {place} on cluster {spec.cluster} is {_INSTEAD[mirroring]}; "
        f"set it with 'rbd mirror pool enable {place} image'"
    )


def disable(
    image: MirroredImage,
    view: MirrorView,
    *,
    force: bool,
    clear: Callable[[MirroredImage], None],
    until: Deadline,
) -> None:
    """Switch mirroring off, after ``clear``; a half-disabled image is brought to the end.

    Raises:
        ImageHasDependents: a mirrored clone depends on the image.
    """
    if view.state is MirrorState.DISABLED and view.torn is None:
        if SWITCHING in image.notes():
            with image.lease(until) as leased:
                # or else it is of one who is just enabling it
                if leased.view().state is MirrorState.DISABLED:
                    leased.note(SWITCHING, None)
        return
    with image.lease(until) as leased:
        now = _require_unchanged(leased, view)
        if now.torn is Torn.UNMIRRORED:
            require_lasting(leased, now)
            make_writable(leased, now)
            leased.note(SWITCHING, None)
            return
        if not now.primary and now.history.epoch is not Epoch.NONE and now.mode in _BY_SNAPSHOTS:
            # librbd promotes a secondary before it disables it
            require_room(leased, now, snapshots_to_promote(now))
            _require_copy_that_lasts(image.spec, now)
        clear(leased)
        make_writable(leased, now)
        with _switching(leased):
            _switch_off(leased, force=force or not view.primary, until=until)
    if image.view().state is not MirrorState.DISABLED:
        raise _being_switched_off(image.spec)


def _require_copy_that_lasts(spec: ImageSpec, view: MirrorView) -> None:
    """Refuse what would have librbd destroy the rest of a copy that is only half overwritten."""
    if view.history.overwritten_by:
        raise NoCompleteCopy(
            f"the newest copy of {spec} is half made ({view.history.progress}), over the last "
            "whole one, and librbd, which promotes an image before it disables it, would take it "
            "back further than that; copy what you need of it, or of an older snapshot "
            f"('rbd cp {spec.path} ...'), then run 'rbd mirror image disable --force {spec.path}'"
        )


def _switch_off(image: LeasedImage, *, force: bool, until: Deadline) -> None:
    while not image.disable(force=force):
        if until.remaining <= POLL:
            raise MirroringDisabling(
                f"rbd-mirror of this site still has {image.spec} open, with a half made copy; it "
                f"lets go when it runs, or is dead for 30 s; {NOTHING_TO_DO}"
            )
        time.sleep(POLL)


def is_left_alone(
    image: MirroredImage, view: MirrorView, *, force: bool, observation: Observation
) -> bool:
    """Tell whether this is a secondary of a live primary: it goes when that is disabled.

    Raises:
        SecondaryUnhealthy: any other secondary, without force.
    """
    if view.primary or view.state is MirrorState.DISABLED or view.state in _HALF_DISABLED:
        return False
    if view.torn is not None and not force:
        raise ImageTorn(
            f"{image.spec} is {words(view.torn)}; demote it, by which that is brought to an end, "
            "then disable the primary; or pass the parameter force=true if that site is lost"
        )
    fault = _secondary_fault(view, observation)
    if fault is not None and not force:
        raise SecondaryUnhealthy(
            f"{image.spec} is secondary and {fault}: disabling it here would end its "
            "replication on one side only; disable the primary, or pass the parameter "
            "force=true if that site is lost"
        )
    return fault is None


def _secondary_fault(view: MirrorView, observation: Observation) -> str | None:
    """Say why a secondary does not follow a live primary; ``None`` if it does."""
    local = view.local
    if local is None:
        return "rbd-mirror of this site has not spoken of it yet"
    if not observation.alive(local, view):
        return "rbd-mirror of this site is down or silent"
    if local.state is not SiteState.REPLAYING:
        return f"not replaying: it reads {local.state.name.lower()} ({text(local)!r})"
    if not any(role(peer) is Role.PRIMARY and observation.alive(peer, view) for peer in view.peers):
        return "no peer is known to be up and primary"
    return None
