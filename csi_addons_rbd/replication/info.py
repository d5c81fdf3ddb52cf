# SPDX-License-Identifier: Apache-2.0
"""GetVolumeReplicationInfo: how old the copy is, and whether it can be relied on."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from csi_addons_rbd.replication.calls import Health, MirroringMode, ReplicationInfo
from csi_addons_rbd.replication.errors import ImageChanged, NotPrimary, SyncInfoMissing
from csi_addons_rbd.replication.image import (
    ImageSpec,
    MirroredImage,
    MirrorView,
    SiteState,
    SiteStatus,
)
from csi_addons_rbd.replication.notes import (
    LAST_SYNC,
    Wanted,
    late_readers,
    noted_sync,
    wanted_schedule,
)
from csi_addons_rbd.replication.observations import Observation
from csi_addons_rbd.replication.sync_info import Role, SyncReport, role, sync_report, text

_WORST: Final = (Health.ERROR, Health.DEGRADED, Health.UNKNOWN)
_LATE: Final = (
    "the peer began to read the journal after the promotion here and may lack what was written "
    "first; disable replication and enable it again"
)
_PEER_HEALTHY: Final = (SiteState.REPLAYING, SiteState.SYNCING)


def replication_info(
    spec: ImageSpec, view: MirrorView, observation: Observation
) -> ReplicationInfo:
    """Report on a primary. Several peers: the one furthest behind counts.

    Raises:
        NotPrimary: only the primary's site can tell.
        SyncInfoMissing: no peer, or none that ever completed a copy.
    """
    if not view.primary:
        raise NotPrimary(f"{spec} is secondary; ask on the site where it is primary")
    if not view.peered:
        raise SyncInfoMissing(f"{spec} has no peer: its pool is mirrored to nowhere")
    last = last_sync(view, observation) or noted_sync(view.notes)
    wanted = wanted_schedule(view.notes)
    findings = _findings(view, observation, wanted, last)
    if late_readers(view):
        findings.append(_Finding(health=Health.DEGRADED, words=_LATE))
    health = next((each for each in _WORST if each in {found.health for found in findings}), None)
    if last is None and health is not Health.ERROR:
        words = "; ".join(found.words for found in findings)
        raise SyncInfoMissing(
            f"{spec} was never copied completely to a peer{'; ' + words if words else ''}"
        )
    report = _furthest_behind(view)
    return ReplicationInfo(
        last_sync=last,
        last_sync_seconds=report.last_seconds if report else None,
        last_sync_bytes=report.last_bytes if report else None,
        entries_behind=report.entries_behind if report else None,
        interval=wanted.schedule.seconds if wanted else None,
        schedule_in_place=wanted.placed if wanted else None,
        daemon_here=view.local is not None and observation.alive(view.local, view),
        daemon_there=bool(view.peers) and all(observation.alive(p, view) for p in view.peers),
        health=health or Health.HEALTHY,
        message=_message(view, findings, last),
    )


def last_sync(view: MirrorView, observation: Observation) -> int | None:
    """Return the newest time until which every peer has everything, remembered if need be."""
    known = [_synced_until(peer, view) for peer in view.peers]
    if known and all(known):
        newest = min(each for each in known if each)
        history = view.history
        if history.copied_until is not None and (history.followed or newest >= history.began):
            # a status lags by up to half a minute, the image itself does not
            newest = max(newest, history.copied_until)
        observation.last_sync = max(newest, observation.last_sync or 0)
    return observation.last_sync


def note_last_sync(image: MirroredImage, view: MirrorView, observation: Observation) -> None:
    """Keep on the image what would be forgotten with this process."""
    last = last_sync(view, observation)
    if last is not None and noted_sync(view.notes) != last:
        with suppress(ImageChanged):  # by one that saw a sync just as late
            image.note(LAST_SYNC, str(last))


def _synced_until(peer: SiteStatus, view: MirrorView) -> int | None:
    report = sync_report(peer)
    if view.mode is MirroringMode.SNAPSHOT:
        return report.copied_until
    return peer.last_update if report.positions_equal else None


def _furthest_behind(view: MirrorView) -> SyncReport | None:
    reports = [sync_report(peer) for peer in view.peers]
    return min(
        reports,
        key=lambda each: (each.copied_until or 0, -(each.entries_behind or 0)),
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """One reason why the status is not HEALTHY."""

    health: Health
    words: str


def _findings(
    view: MirrorView, observation: Observation, wanted: Wanted | None, last: int | None
) -> list[_Finding]:
    found = [_local_finding(view, observation)]
    if not view.peers:
        found += [_Finding(health=Health.UNKNOWN, words="no peer has spoken of the image yet")]
    found += [_peer_finding(peer, view, observation) for peer in view.peers]
    if wanted is not None and not wanted.placed:
        words = f"the snapshot schedule every {wanted.schedule.interval} is not in place yet"
        found.append(_Finding(health=Health.DEGRADED, words=words))
    if wanted is not None and last is not None:
        found.append(_age_finding(view, 2 * wanted.schedule.seconds, last))
    return [each for each in found if each is not None]


def _local_finding(view: MirrorView, observation: Observation) -> _Finding | None:
    local = view.local
    if local is None:
        return _Finding(health=Health.UNKNOWN, words="this site's rbd-mirror has not spoken yet")
    if not observation.alive(local, view):
        return _Finding(health=Health.DEGRADED, words="rbd-mirror of this site is down or silent")
    words = f"this site reads {local.state.name.lower()} ({text(local)!r})"
    if local.state is SiteState.ERROR:
        return _Finding(health=Health.ERROR, words=words)
    if role(local) is not Role.PRIMARY:
        return _Finding(health=Health.UNKNOWN, words=words)
    return None


def _peer_finding(peer: SiteStatus, view: MirrorView, observation: Observation) -> _Finding | None:
    words = f"the peer reads {peer.state.name.lower()} ({text(peer)!r})"
    # also of a daemon that died since: the error stands until somebody mends it
    if peer.state is SiteState.ERROR:
        return _Finding(health=Health.ERROR, words=words)
    if not observation.alive(peer, view):
        return _Finding(health=Health.DEGRADED, words="rbd-mirror of the peer is down or silent")
    if peer.state not in _PEER_HEALTHY:
        return _Finding(health=Health.UNKNOWN, words=words)
    return None


def _age_finding(view: MirrorView, most: int, last: int) -> _Finding | None:
    """Judge the copy's age by the newest moment of the cluster's own clock that is known."""
    age = view.newest_update - last
    if age <= most:
        return None
    return _Finding(
        health=Health.DEGRADED,
        words=f"the copy is {age} s old, more than twice the interval ({most} s)",
    )


def _message(view: MirrorView, findings: list[_Finding], last: int | None) -> str:
    words = [found.words for found in findings] or ["primary here, every peer follows"]
    if last is not None:
        words.append(f"the copy on the peer is {max(0, view.newest_update - last)} s old")
    else:
        words.append("no complete copy on a peer is known of")
    return "; ".join(words)
