# SPDX-License-Identifier: Apache-2.0
"""No demotion under a client that may write: looked for before it and after it.

librbd itself would demote under an open writer, and what was acknowledged to it meanwhile is lost.
"""

import time
from collections.abc import Iterable
from typing import Final

import structlog

from csi_addons_rbd.replication.calls import MirroringMode
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import (
    LEASE_LOSSES,
    NOTHING_TO_DO,
    DriverError,
    ImageChanged,
    ImageInUse,
)
from csi_addons_rbd.replication.image import (
    Epoch,
    Grip,
    Holder,
    LeasedImage,
    MirroredImage,
    MirrorView,
)
from csi_addons_rbd.replication.notes import (
    DEMOTING,
    Demotion,
    note_demotion,
    note_readers,
    noted_demotion,
)
from csi_addons_rbd.replication.observations import Observation
from csi_addons_rbd.replication.patience import POLL, Patience
from csi_addons_rbd.replication.sync_info import Role, role

_PASSING: Final = {
    Grip.LOCK: 5,  # such as the snapshot scheduler's
    Grip.WATCH: 35,  # that of a dead client, such as a restarted rbd-mirror, stands for 30 s
    Grip.SILENT: 70,  # longer than it takes to count as dead
    Grip.FENCED: 70,
}
"""Seconds for which a holder may be one that goes by itself, by how it holds the image."""
_GONE: Final = 1
"""Seconds for which a holder that was seen must stay away: two that take turns are none that
passes."""
_DEAD: Final = 60
"""Seconds without a watch after which the owner of the exclusive lock counts as dead."""
_QUEUED: Final = 5
"""Seconds in which whoever waited for the exclusive lock during a demotion takes it: a client to
which each message takes up to 0.5 s needed 4."""
_GLANCE: Final = 0.02
"""Seconds from one look for it to the next: whoever has taken it may close the image at once."""
_MARGIN: Final = 5
"""Seconds that are left for the change itself, and the answer."""
_LOOKED_AT: Final = 5
"""Seconds of these that must be seen by the call itself."""
_WAY_OUT: Final = (
    "what that client wrote last may be missing on the peer; close it, and promote this side again "
    "to keep its writes, or promote the peer to give them up"
)

_log = structlog.get_logger()


def require_unheld(image: LeasedImage, observation: Observation, patience: Patience) -> None:
    """Return when nobody holds the image; the lock of a client that is dead is broken.

    Raises:
        ImageInUse: somebody does, or the dead cannot be fenced.
    """
    holders = _staying(image, observation, patience.call.earlier(_MARGIN))
    if not holders:
        return
    words = ", ".join(f"{holder} ({holder.grip.value})" for holder in holders)
    text = f"{image.spec} is held by {words}: demoting now would lose its writes; "
    lasted = _unwatched(holders, observation)
    if lasted:
        raise ImageInUse(
            f"{text}for {lasted:.0f} s it has not watched the image; after {_DEAD} s it counts as "
            f"dead, is fenced, and its lock is broken; {NOTHING_TO_DO}"
        )
    raise ImageInUse(
        f"{text}stop the workload and unmap the volume; the controller retries by itself"
    )


def _staying(image: LeasedImage, observation: Observation, until: Deadline) -> tuple[Holder, ...]:
    """Wait for holders to go and evict the dead; return those that stay."""
    began = time.monotonic()
    seen: tuple[Holder, ...] = ()
    last_seen = float("-inf")
    while True:
        holders, looked = image.holders(), time.monotonic() - began
        lasted = _unwatched(holders, observation)
        if holders:
            seen, last_seen = holders, time.monotonic()
        elif time.monotonic() - last_seen >= _GONE:
            return ()
        for holder in holders:
            if is_dead(holder, lasted=lasted, looked=looked):
                image.evict(holder)
        passing = min((_PASSING[each.grip] for each in seen), default=0)
        if looked >= passing or until.remaining <= 0:
            return seen
        time.sleep(POLL)


def is_dead(holder: Holder, *, lasted: float, looked: float) -> bool:
    """Tell whether a client can do nothing any more.

    Args:
        holder: Who.
        lasted: For how many seconds it has had the exclusive lock, and no watch.
        looked: For how many of these the call itself has looked.
    """
    silent = holder.grip is Grip.SILENT and lasted >= _DEAD and looked >= _LOOKED_AT
    return silent or holder.grip is Grip.FENCED


def _unwatched(holders: Iterable[Holder], observation: Observation) -> float:
    """Return for how long the same lock has stood whose client does not watch the image."""
    silent = tuple(holder for holder in holders if holder.grip is Grip.SILENT)
    lasted = observation.unwatched.observe(silent)
    return lasted if silent else 0


def require_nobody_came(image: LeasedImage, observation: Observation, patience: Patience) -> None:
    """Look whether a client came between the last look and the demotion; take it back then.

    A mere watch may be that of the manager, or of an rbd-mirror that has just begun: it is given
    time to go.

    Raises:
        ImageInUse: one came.
    """
    view = image.view()
    if view.primary:
        return  # not demoted: the caller says so
    holders = _latecomers(image, view, patience)
    if holders and all(each.grip is Grip.WATCH for each in holders):
        holders = _staying(image, observation, patience.call.earlier(_MARGIN))
    if not holders:
        image.note(DEMOTING, None)
        return
    words = _note_intruders(image, holders, view)
    obstacle = _take_back(image, patience)
    if obstacle:
        raise ImageInUse(f"{words}; that could not be taken back: {obstacle}; {_WAY_OUT}")
    image.note(DEMOTING, None)
    raise ImageInUse(
        f"{words}; that was taken back, and the image is primary again; stop the workload and "
        "unmap the volume; the controller retries by itself"
    )


def _latecomers(image: MirroredImage, view: MirrorView, patience: Patience) -> tuple[Holder, ...]:
    """Return who holds a demoted image, once who waited for its lock has had time to take it.

    What a client had queued while librbd demoted is written all the same, and acknowledged, when
    that client gets the lock; in journal mode it is refused. Until then, only its watch shows it.

    Raises:
        ImageChanged: the call's time ends before that.
    """
    began = time.monotonic()
    while not (holders := image.holders()) and view.mode is MirroringMode.SNAPSHOT:
        clients = ", ".join(sorted(image.watchers()))
        if not clients:
            break
        if time.monotonic() - began >= _QUEUED:
            _log.warning(
                "clients have the demoted image open, and librbd still takes the first write of "
                "each: close them",
                image=image.spec.path,
                clients=clients,
            )
            break
        if patience.call.earlier(_MARGIN).remaining <= 0:
            raise ImageChanged(
                f"{image.spec} was demoted while {clients} had it open; whether that still writes "
                f"what it had begun shows within {_QUEUED} s, and this call had less left; "
                f"{NOTHING_TO_DO}"
            )
        time.sleep(_GLANCE)
    return holders


def _note_intruders(image: MirroredImage, holders: Iterable[Holder], view: MirrorView) -> str:
    demotion = Demotion(clients=tuple(map(str, holders)), mark=view.history.mark)
    note_demotion(image, demotion)
    return _words(image, demotion)


def _words(image: MirroredImage, demotion: Demotion) -> str:
    return f"{image.spec} was demoted while {', '.join(demotion.clients)} had it open"


def _take_back(image: LeasedImage, patience: Patience) -> str:
    """Promote again what was just demoted; say what is in the way, empty for nothing."""
    while True:
        view = image.view()
        obstacle = obstacle_to_taking_back(view)
        if obstacle or view.primary:
            return obstacle
        refusal = _promote(image, view)
        if patience.call.remaining <= POLL:
            return refusal
        time.sleep(POLL if refusal else 0)


def _promote(image: LeasedImage, view: MirrorView) -> str:
    """Promote without force; say why not, empty when it worked."""
    try:
        if view.mode is MirroringMode.JOURNAL:
            note_readers(image, view.history.readers)
        return "" if image.promote(force=False) else "librbd does not accept it yet"
    except LEASE_LOSSES:
        raise
    except DriverError as exc:
        return exc.message


def obstacle_to_taking_back(view: MirrorView) -> str:
    """Say why an image must not be promoted again right after its demotion; empty for nothing."""
    if any(role(peer) is Role.PRIMARY for peer in view.peers):
        return "a peer is primary"
    if view.primary or view.history.epoch is Epoch.PRIMARY_DEMOTED:
        return ""
    return f"its newest history is {view.history.epoch}"


def finish_demotion(image: MirroredImage, observation: Observation, patience: Patience) -> None:
    """Come back to a demotion after which nobody was told OK: it was cut short, or went wrong.

    Taking it back is no more up to this driver: who was told of it may have promoted the peer.

    Raises:
        ImageInUse: a client came in the middle of it.
    """
    with image.lease(patience.call) as leased:
        view = leased.view()
        demotion = noted_demotion(view.notes)
        if demotion is None or view.primary:
            return
        if not is_of_this_term(demotion, view):
            leased.note(DEMOTING, None)
            return
        if demotion.clients:
            raise ImageInUse(f"{_words(image, demotion)}; {_WAY_OUT}")
        _latecomers(leased, view, patience)
        holders = _staying(leased, observation, patience.until)
        if holders:
            raise ImageInUse(f"{_note_intruders(leased, holders, view)}; {_WAY_OUT}")
        leased.note(DEMOTING, None)


def is_of_this_term(demotion: Demotion, view: MirrorView) -> bool:
    """Tell whether that demotion is the newest that happened to a secondary."""
    demoted = view.history.epoch is Epoch.PRIMARY_DEMOTED
    return demoted and (not demotion.clients or demotion.mark == view.history.mark)
