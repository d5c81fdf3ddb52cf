# SPDX-License-Identifier: Apache-2.0
"""PromoteVolume: make this site's image primary, with nothing lost and nothing forced.

The controller answers FAILED_PRECONDITION here with an immediate ``force=true``. So that code
only leaves this module when force is the right next step, or meets the same refusal.
"""

import time
from dataclasses import dataclass
from typing import Final

from csi_addons_rbd.replication.calls import MirroringMode
from csi_addons_rbd.replication.errors import (
    NOTHING_TO_DO,
    Busy,
    DataPending,
    FirstSyncRunning,
    ImageChanged,
    MirrorDaemonDown,
    MirrorDaemonHoldsImage,
    NoCompleteCopy,
    PeerIsPrimary,
    PeerUnreachable,
    PreconditionFailed,
)
from csi_addons_rbd.replication.image import (
    Epoch,
    ImageSpec,
    MirroredImage,
    MirrorState,
    MirrorView,
    SiteState,
    SiteStatus,
)
from csi_addons_rbd.replication.notes import DEMOTING, note_readers, noted_demotion
from csi_addons_rbd.replication.observations import LOOKED, SILENCE, Observation
from csi_addons_rbd.replication.patience import POLL, Hindsight, Patience
from csi_addons_rbd.replication.sync_info import Role, role, sync_report, text
from csi_addons_rbd.replication.torn import require_room_to_promote
from csi_addons_rbd.replication.undecided import (
    UNDECIDED,
    described,
    require_decided,
    require_word_since,
)

_HOLDING: Final = (SiteState.STARTING_REPLAY, SiteState.REPLAYING, SiteState.STOPPING_REPLAY)
_STANDSTILL: Final = 60
_JOINING: Final = 10
"""Seconds for which a live peer is given time to read this image's journal from the start."""
_RESTART: Final = 5
"""Seconds for which a peer may be down without being lost, if its rbd-mirror is restarted."""
_REPLAYED: Final = 15
"""The same in journal mode, where only the status tells what is still to be replayed: rbd-mirror
looks into the peer's journal every 5 s, and writes what it found every 10 s."""
_IF_STILL: Final = "if it stands still, see the log of this site's rbd-mirror"
_LAG: Final = 35
"""Seconds by which this site's status may be older than the newest of any site, and still be the
last word: rbd-mirror writes one every 30 s."""
_FRESH: Final = 2
"""Seconds by which a status must be newer than all there were when the call began: they are whole
seconds, and of several writers."""


def promote(
    image: MirroredImage,
    view: MirrorView,
    *,
    force: bool,
    observation: Observation,
    patience: Patience,
) -> None:
    """Promote a secondary; returns only after a fresh read shows it primary.

    Raises:
        NoCompleteCopy: force meets the same refusal.
        PeerIsPrimary, PeerUnreachable: force is the legitimate next step.
        FirstSyncRunning, DataPending: passes by itself.
        MirrorDaemonDown: the local rbd-mirror is needed, and does not run.
        PoolFull: nothing can be changed, by force neither.
    """
    require_complete_copy(image.spec, view, observation)
    if force:
        _insist(image, view, observation, patience)
    else:
        try:
            _await_data(image, view, observation, patience)
        except PreconditionFailed:
            # at which the controller forces: no word of that in a pool that is full, where peers
            # cannot even write what they are
            with image.lease(patience.call):
                pass
            raise
    view = image.view()
    if not view.primary or view.torn is not None:
        raise ImageChanged(f"{image.spec} was promoted, but does not read primary; {NOTHING_TO_DO}")


def await_release(image: MirroredImage, patience: Patience) -> None:
    """Wait until rbd-mirror of this site has let go of what it replayed.

    In journal mode it may hang on the lost peer while it stops, with the exclusive lock in its
    hands: the image is primary then, and yet refuses every write as read-only.

    Raises:
        MirrorDaemonHoldsImage: it has not let go in time.
    """
    view = image.view()
    while _replaying(view) and (holder := image.held_by_mirror_daemon()):
        if patience.until.remaining <= 0:
            raise MirrorDaemonHoldsImage(
                f"{image.spec} is promoted, but cannot be written yet: rbd-mirror of this site "
                f"({holder}) keeps the exclusive lock, as one does that hangs on a lost peer; "
                "restart that rbd-mirror; the controller retries by itself"
            )
        time.sleep(POLL)
        view = image.view()


def _replaying(view: MirrorView) -> bool:
    return view.local is not None and view.local.state in _HOLDING


def require_complete_copy(spec: ImageSpec, view: MirrorView, observation: Observation) -> None:
    """Refuse, forced or not, what would make a half copied image primary."""
    if view.state is not MirrorState.CREATING and view.history.complete:
        return
    if observation.may_speak(view) or any(observation.alive(each, view) for each in view.peers):
        raise FirstSyncRunning(
            f"the first copy of {spec} is not complete; {_local_words(view)}; "
            f"the controller retries; {_IF_STILL}"
        )
    raise NoCompleteCopy(
        f"{spec} was never copied completely and no peer is up to go on: "
        f"there is nothing here to promote; {_local_words(view)}; bring the peer back, or restore "
        "the volume from a backup"
    )


def _require_way_back(spec: ImageSpec, view: MirrorView, observation: Observation) -> None:
    """Refuse to promote by force what lies between two copies, and cannot be taken back to one."""
    if not view.history.overwritten_by:
        return
    snapshots = ", ".join(map(repr, view.history.overwritten_by))
    text = (
        f"the newest copy of {spec} is half made ({view.history.progress}), and cannot be taken "
        f"back: since the last whole copy, users took the snapshots {snapshots}, with which "
        "rbd-mirror has begun to write over it"
    )
    up = [each for each in view.statuses if observation.alive(each, view)]
    arrives = view.local in up and _coming(view) and observation.standstill(view) < _STANDSTILL
    if arrives or any(peer in up for peer in view.peers) or observation.may_speak(view):
        raise DataPending(
            f"{text}; waiting until it is whole; {_local_words(view)}; the controller retries; "
            f"{_IF_STILL}"
        )
    raise NoCompleteCopy(
        f"{text}; no peer is up to go on, and what is here, a mixture of both copies, is not "
        f"promoted; use a copy of an older snapshot ('rbd snap ls {spec.path}', 'rbd cp "
        f"{spec.path}@SNAPSHOT ...'), or repair one of the mixture ('rbd cp {spec.path} ...')"
    )


def _insist(
    image: MirroredImage, start: MirrorView, observation: Observation, patience: Patience
) -> None:
    """Force: rbd-mirror lets go of a replaying image only after a while (EBUSY, EROFS)."""
    while not _force(image, start, observation, patience):
        if patience.until.remaining <= 0:
            holders = (
                ", ".join(map(str, image.holders())) or image.held_by_mirror_daemon() or "nobody"
            )
            raise Busy(
                f"{image.spec} cannot be promoted by force yet: librbd finds it in use, "
                f"held by {holders}; rbd-mirror of this site lets go when it runs or is dead "
                "for 30 s, any other holder must close the image; the controller retries by itself"
            )
        time.sleep(POLL)


def _force(
    image: MirroredImage, start: MirrorView, observation: Observation, patience: Patience
) -> bool:
    with image.lease(patience.call) as leased:
        view = leased.view()
        if view.primary:
            return True
        _require_not_moved(image.spec, start, view)
        require_complete_copy(image.spec, view, observation)  # it may be another, after a resync
        _require_way_back(image.spec, view, observation)
        require_room_to_promote(leased, view)
        _note_readers(leased, view)
        _forget_demotion_made_anew(leased, view)
        return leased.promote(force=True)


def _await_data(
    image: MirroredImage, start: MirrorView, observation: Observation, patience: Patience
) -> None:
    """Promote as soon as that provably loses nothing; wait, or refuse, until then."""
    hindsight = Hindsight(patience.check_interval)
    judge = _Judge(
        spec=image.spec,
        start=start.newest_update,
        hindsight=hindsight,
        observation=observation,
    )
    view = start
    while not view.primary:
        hindsight.note(view)
        obstacle = judge.obstacle(view)
        if obstacle is None and hindsight.age < min(_JOINING, patience.until.remaining):
            obstacle = _unread(view, observation)
        if obstacle is None:
            if _take_over(image, start, judge, patience):
                return
            obstacle = "librbd does not accept yet, rbd-mirror still holds the image"
        if patience.confirmed.remaining <= 0:
            raise DataPending(
                f"{image.spec} is not promoted yet: {obstacle}; {_local_words(view)}; the "
                f"controller retries; {_IF_STILL}"
            )
        time.sleep(POLL)
        view = image.view()
        observation.note(view)


def _take_over(
    image: MirroredImage, start: MirrorView, judge: "_Judge", patience: Patience
) -> bool:
    """Promote as the only driver, if a last look shows no obstacle, either."""
    with image.lease(patience.call) as leased:
        view = leased.view()
        if view.primary:
            return True
        _require_not_moved(image.spec, start, view)
        if judge.obstacle(view) is not None:
            return False
        require_room_to_promote(leased, view)
        _note_readers(leased, view)
        _forget_demotion_made_anew(leased, view)
        return leased.promote(force=False)


def _require_not_moved(spec: ImageSpec, start: MirrorView, now: MirrorView) -> None:
    """Refuse what was asked for before another driver promoted the image and demoted it again."""
    demoted = now.history.epoch is Epoch.PRIMARY_DEMOTED
    if demoted and now.history.mark != start.history.mark:
        raise ImageChanged(
            f"{spec} was promoted and demoted by another driver meanwhile; {NOTHING_TO_DO}"
        )


def _note_readers(image: MirroredImage, view: MirrorView) -> None:
    """Before anything is written: who joins the journal later has missed it, see ``demote``."""
    if view.mode is MirroringMode.JOURNAL:
        note_readers(image, view.history.readers)


def _forget_demotion_made_anew(image: MirroredImage, view: MirrorView) -> None:
    """Before the promotion, or a primary would read as one that nobody has proven to be one."""
    demotion = noted_demotion(view.notes)
    if demotion is not None and demotion.anew:
        image.note(DEMOTING, None)


def _unread(view: MirrorView, observation: Observation) -> str | None:
    """Say that a live peer does not read this image's journal yet."""
    if view.mode is MirroringMode.SNAPSHOT:
        return None
    missing = (peer for peer in view.peers if peer.site not in view.history.readers)
    if any(observation.alive(peer, view) for peer in missing):
        return "the peer's rbd-mirror does not read the journal here yet"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    """Decides from one reading whether to promote (``None``), to wait (why), or to refuse."""

    spec: ImageSpec
    start: int
    """The newest ``last_update`` of any site when the call began."""
    hindsight: Hindsight
    observation: Observation

    def obstacle(self, view: MirrorView) -> str | None:
        self.observation.undecided_for(view)
        if view.history.epoch is Epoch.PRIMARY_DEMOTED:
            return last_primary_obstacle(self.spec, view, self.observation, self.hindsight)
        if view.history.epoch is Epoch.NON_PRIMARY_DEMOTED:
            return self._peer_demoted_last(view)
        return self._refused(view)

    def _peer_demoted_last(self, view: MirrorView) -> str | None:
        """Decide about an image whose newest history is the peer's demotion.

        librbd accepts to promote it, and that proves nothing: the peer may have been promoted again
        since, and written, while nothing of it came here. Only rbd-mirror of this site, which looks
        at the peer's image itself, can tell that the demotion still stands.
        """
        alive = self._alive_peers(view)
        silent = self.observation.silent_for(view, self.hindsight)
        self._require_no_primary(alive)
        if not self._local_alive(view) and alive:
            raise MirrorDaemonDown(
                f"the peer of {self.spec} was demoted, and whether it was promoted again since can "
                "only be found out by rbd-mirror of this site, which is down or silent; start it"
            )
        if self._demotion_stands(view, alive):
            return None
        if not self.observation.may_speak(view) and silent >= UNDECIDED:
            raise self._unreachable(view, "to tell that it is demoted still")
        if alive and all(role(peer) is Role.UNKNOWN for peer in alive):
            return self._undecided(view, alive)
        return "the peer was demoted last; waiting until rbd-mirror here says that it still is"

    def _demotion_stands(self, view: MirrorView, alive: list[SiteStatus]) -> bool:
        """Tell whether this site's rbd-mirror has found the peer demoted, and nobody objects."""
        local = view.local
        if local is None or not self._local_alive(view) or role(local) is not Role.DEMOTED:
            return False
        called_primary = [peer for peer in view.peers if role(peer) is Role.PRIMARY]
        if any(peer in alive for peer in called_primary):
            return False
        if called_primary:  # the last words of an rbd-mirror that died
            newest = max(peer.last_update for peer in called_primary)
            return self.hindsight.confirms(local) and local.last_update > newest
        fresh = local.last_update >= self.start + _FRESH
        # with no peer up this site may be cut off from it, and its own status be an old one
        return fresh or (bool(alive) and view.newest_update - local.last_update <= _LAG)

    def _alive_peers(self, view: MirrorView) -> list[SiteStatus]:
        return [peer for peer in view.peers if self.observation.alive(peer, view)]

    def _require_no_primary(self, alive: list[SiteStatus]) -> None:
        for peer in alive:
            if role(peer) is Role.PRIMARY and self.hindsight.confirms(peer):
                raise PeerIsPrimary(
                    f"the peer of {self.spec} is primary, as its rbd-mirror says "
                    f"({text(peer)!r}); demote it there, or force if that site is lost"
                )

    def _refused(self, view: MirrorView) -> str:
        """Say why to wait for the peer's last data, or that waiting is in vain."""
        alive = self._alive_peers(view)
        standstill = self.observation.standstill(view)
        if any(role(peer) is Role.DEMOTED for peer in view.peers):
            return self._demoted(view, alive, standstill)
        self._require_no_primary(alive)
        if _coming(view) and standstill < _STANDSTILL:
            return "the peer's last data is still coming"
        if self.observation.may_speak(view):
            return "no peer has spoken of the image yet"
        if alive:
            return self._undecided(view, alive)
        replays = view.mode is MirroringMode.JOURNAL and self._local_alive(view)
        if self.hindsight.age < (_REPLAYED if replays else _RESTART):
            return "no peer is up at this moment"
        raise self._unreachable(view, "to send its last data")

    def _demoted(self, view: MirrorView, alive: list[SiteStatus], standstill: float) -> str:
        if not alive and standstill >= _STANDSTILL and self.hindsight.age >= LOOKED:
            raise self._unreachable(view, "to send its last data")
        if view.history.orphaned:
            return (
                "a promotion by force was begun here and not ended, since when nothing of the peer "
                "arrives; promote the peer again, or force this side, which gives up what the peer "
                "wrote since"
            )
        if alive and not self._local_alive(view):
            raise MirrorDaemonDown(
                f"the peer of {self.spec} is demoted, but rbd-mirror of this site is down or "
                "silent and the last data cannot arrive without it; start it (force would lose "
                "that data); the controller retries by itself"
            )
        return "the peer is demoted and its last data is still coming"

    def _local_alive(self, view: MirrorView) -> bool:
        return view.local is not None and self.observation.alive(view.local, view)

    def _undecided(self, view: MirrorView, alive: list[SiteStatus]) -> str:
        if any(peer.last_update >= self.start + _FRESH for peer in alive):
            require_decided(self.spec, view, self.observation, self.hindsight)
        return f"waiting for a fresh word of the peer, which reads {described(alive)}"

    def _unreachable(self, view: MirrorView, purpose: str) -> PeerUnreachable:
        words = described(view.peers)
        return PeerUnreachable(
            f"no peer of {self.spec} is up {purpose} "
            f"({'last seen ' + words if words else 'none was ever heard of'}); "
            "force if that site is lost"
        )


def last_primary_obstacle(
    spec: ImageSpec, view: MirrorView, observation: Observation, hindsight: Hindsight
) -> str | None:
    """Decide about an image whose newest history is this site's own demotion.

    librbd accepts to promote it, and that proves nothing: a peer may have been promoted,
    written and demoted since, and what it wrote would be lost. Only when every site has
    looked again since the call began, and found nobody primary, nothing is missing here.

    Raises:
        MirrorDaemonDown: a peer is up, and the local rbd-mirror, which would find out, is not.
        PeerUnreachable: for a minute no peer has been up to ask, or for 90 s none that is up has
            told anything.
    """
    alive = [peer for peer in view.peers if observation.alive(peer, view)]
    lasted = observation.silent_for(view, hindsight)
    if not observation.may_speak(view) and lasted >= SILENCE:
        raise PeerUnreachable(
            f"{spec} was demoted here last, and for {lasted:.0f} s no peer has been up to tell "
            "whether it was primary since; force if that site is lost"
        )
    if alive and (view.local is None or not observation.alive(view.local, view)):
        raise MirrorDaemonDown(
            f"{spec} was demoted here last, and whether a peer was primary since can only be "
            "found out by rbd-mirror of this site, which is down or silent; start it"
        )
    if not all_waiting(view) or not all(map(hindsight.confirms, view.statuses)):
        require_word_since(spec, view, observation, hindsight)
        return "this site was primary last; waiting until every site confirms that none was since"
    if not view.history.delivered:
        return (
            "this site was primary last, but its last data never arrived at the peer, so that each "
            "side may hold writes which the other lacks; force the side whose data shall live"
        )
    return None


def all_waiting(view: MirrorView) -> bool:
    """Tell whether every site reads up and unknown: nobody primary, nothing on its way."""
    return (
        view.local is not None
        and bool(view.peers)
        and all(each.up and each.state is SiteState.UNKNOWN for each in view.statuses)
    )


def _coming(view: MirrorView) -> bool:
    """Tell whether the peer's last data is on its way: by this site's status, or the copy itself.

    A status may not tell of a copy before that is whole, and that of a journal never does: there
    the two positions show what is still to be replayed.
    """
    if view.history.progress and not view.history.orphaned:
        return True
    local = view.local
    if local is None:
        return False
    report = sync_report(local)
    behind = report.position is not None and not report.positions_equal
    return behind or report.syncing or role(local) is Role.DEMOTED


def _local_words(view: MirrorView) -> str:
    """Describe what this site's rbd-mirror says, and the lag where it is known."""
    if view.local is None:
        return "rbd-mirror of this site has not spoken of it yet"
    report = sync_report(view.local)
    words = f"this site reads {view.local.state.name.lower()} ({text(view.local)!r})"
    if view.history.progress:
        words += f", {view.history.progress}"
    if report.newest is not None and report.copied_until is not None:
        words += f", {max(0, report.newest - report.copied_until)} s behind the peer"
    return words
