# SPDX-License-Identifier: Apache-2.0
"""GetVolumeReplicationInfo: how old the copy is, and whether it can be relied on."""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from csi_addons_rbd.replication.calls import Health, MirroringMode, ReplicationInfo
from csi_addons_rbd.replication.errors import ImageChanged, NotPrimary, SyncInfoMissing
from csi_addons_rbd.replication.image import (
    Epoch,
    ImageSpec,
    MirroredImage,
    MirrorView,
    SiteState,
    SiteStatus,
)
from csi_addons_rbd.replication.notes import (
    Synced,
    Wanted,
    ended_schedule,
    keeps_unreadable_schedule,
    late_readers,
    note_sync,
    noted_sync,
    synced,
    wanted_schedule,
)
from csi_addons_rbd.replication.observations import Observation
from csi_addons_rbd.replication.sync_info import Role, SyncReport, role, sync_report, text

_WORST: Final = (Health.ERROR, Health.DEGRADED, Health.UNKNOWN)
_LATE: Final = (
    "the peer began to read the journal after the promotion here and may lack what was written "
    "first; disable replication and enable it again"
)
_UNREADABLE: Final = (
    "a snapshot schedule is noted which this version of the driver cannot read; it is left as it "
    "is until replication is enabled, or the volume promoted, with a schedulingInterval"
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
        raise NotPrimary(f"{spec} is secondary; only the site where it is primary can tell")
    if not view.peered:
        raise SyncInfoMissing(
            f"{spec} has no peer: its pool is mirrored to nowhere; add one with "
            "'rbd mirror pool peer bootstrap'"
        )
    last = last_sync(view, observation)
    wanted = wanted_schedule(view.notes) or ended_schedule(view.notes)
    findings = _findings(view, observation, wanted, last)
    if late_readers(view):
        findings.append(_Finding(health=Health.DEGRADED, words=_LATE))
    health = next((each for each in _WORST if each in {found.health for found in findings}), None)
    if last is None and health is not Health.ERROR:
        words = "; ".join(found.words for found in findings)
        raise SyncInfoMissing(
            f"no complete copy of {spec} on a peer is known of since it became primary here"
            f"{'; ' + words if words else ''}; wait for the first copy, and if it does not come, "
            "see rbd-mirror of the peer's site"
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
        message=_message(view, observation, findings, last),
    )


def last_sync(view: MirrorView, observation: Observation) -> int | None:
    """Return the newest time until which every peer has everything, remembered if need be.

    What was remembered or noted in an earlier term as primary does not count.
    """
    history = view.history
    known = [_synced_until(peer, view) for peer in view.peers]
    told = min(each or 0 for each in known) if known else 0
    times = [told, history.agreed_at or 0]
    if history.copied_until is not None and (history.followed or told >= history.began):
        # a status lags by up to half a minute, the image itself does not
        times.append(history.copied_until)
    remembered = (observation.last_sync, noted_sync(view.notes))
    times += [each.until for each in remembered if each is not None and each.holds(view)]
    newest = max(times)
    observation.last_sync = synced(view, newest) if newest else None
    return newest or None


def note_last_sync(image: MirroredImage, view: MirrorView, observation: Observation) -> None:
    """Keep on the image what would be forgotten with this process."""
    last, noted = last_sync(view, observation), noted_sync(view.notes)
    stands = noted is not None and noted.holds(view) and noted.until == last
    if last is not None and not stands:
        with suppress(ImageChanged):  # by one that saw a sync just as late
            note_sync(image, synced(view, last))


def agreed(before: MirrorView, after: MirrorView, *, force: bool) -> Synced | None:
    """Tell from what a promotion found until when both sides are the same.

    Without force that is until the promotion itself. A forced one begins with what this site's
    rbd-mirror had copied: it tells when the peer took that, the image only when it came here.
    One after this site's own demotion begins with what the peer has of that.
    """
    history = before.history
    until: int | None
    if not force or history.epoch is Epoch.NON_PRIMARY_DEMOTED:
        until = after.newest_update
    elif history.epoch is Epoch.PRIMARY_DEMOTED:
        until = _until_own_demotion(before)
    else:
        until = _synced_until(before.local, before) if before.local else None
        until = until or (None if history.progress else history.newest_at)
    return synced(after, until) if until else None


def _until_own_demotion(before: MirrorView) -> int | None:
    """Tell until when the peer has everything, after this site's own demotion.

    Where the demotion did not reach it, the last sync that was noted before still counts: the
    peer's copy has not changed since, and the time of the demotion would make it look fresh.
    """
    history, noted = before.history, noted_sync(before.notes)
    if history.delivered and history.newest_at and not history.progress:
        return history.newest_at
    return noted.until if noted is not None and noted.holds(before) else None


def _synced_until(peer: SiteStatus, view: MirrorView) -> int | None:
    """Tell until when a site has everything of the primary, if its status does."""
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
    if keeps_unreadable_schedule(view):
        found.append(_Finding(health=Health.DEGRADED, words=_UNREADABLE))
    if wanted is not None and not wanted.placed:
        words = f"the snapshot schedule every {wanted.schedule.interval} is not in place yet"
        found.append(_Finding(health=Health.DEGRADED, words=words))
    if wanted is not None and last is not None:
        found.append(_age_finding(_age(view, observation, last), 2 * wanted.schedule.seconds))
    return [each for each in found if each is not None]


def _local_finding(view: MirrorView, observation: Observation) -> _Finding | None:
    local = view.local
    if local is None:
        return _Finding(health=Health.UNKNOWN, words="this site's rbd-mirror has not spoken yet")
    words = f"this site reads {local.state.name.lower()} ({text(local)!r})"
    # also of a daemon that died since: the error stands until somebody mends it
    if local.state is SiteState.ERROR:
        return _Finding(health=Health.ERROR, words=words)
    if not observation.alive(local, view):
        return _Finding(health=Health.DEGRADED, words="rbd-mirror of this site is down or silent")
    if role(local) is not Role.PRIMARY:
        return _Finding(health=Health.UNKNOWN, words=words)
    return None


def _peer_finding(peer: SiteStatus, view: MirrorView, observation: Observation) -> _Finding | None:
    words = f"the peer reads {peer.state.name.lower()} ({text(peer)!r})"
    # both also of a daemon that died since
    if peer.state is SiteState.ERROR:
        return _Finding(health=Health.ERROR, words=words)
    if observation.beside(peer, view):
        words += (
            ": both sites are primary, and what either writes the other lacks; demote the one "
            "whose writes shall be lost, and resync it"
        )
        return _Finding(health=Health.ERROR, words=words)
    if not observation.alive(peer, view):
        return _Finding(health=Health.DEGRADED, words="rbd-mirror of the peer is down or silent")
    if peer.state not in _PEER_HEALTHY:
        return _Finding(health=Health.UNKNOWN, words=words)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Age:
    """How old the copy is, at least."""

    seconds: int
    by_own_clock: bool

    def __str__(self) -> str:
        clock = " by the clock of this driver's node" if self.by_own_clock else ""
        return f"{self.seconds} s old{clock}"


def _age(view: MirrorView, observation: Observation, last: int) -> _Age:
    """Tell the age by the cluster's clock.

    Where no rbd-mirror writes any more, a driver that was started since has seen nothing of that
    clock: then it is also told by the node's own, if that makes it older.
    """
    age = max(0, view.newest_update - last, observation.cluster_time - last)
    own = int(time.time()) - last
    silent = not any(observation.alive(each, view) for each in view.statuses)
    return _Age(seconds=max(age, own) if silent else age, by_own_clock=silent and own > age)


def _age_finding(age: _Age, most: int) -> _Finding | None:
    if age.seconds <= most:
        return None
    return _Finding(
        health=Health.DEGRADED,
        words=f"the copy is {age}, more than twice the interval ({most} s)",
    )


def _message(
    view: MirrorView, observation: Observation, findings: list[_Finding], last: int | None
) -> str:
    words = [found.words for found in findings] or ["primary here, every peer follows"]
    if last is not None:
        words.append(f"the copy on the peer is {_age(view, observation, last)}")
    else:
        words.append("no complete copy on a peer is known of")
    return "; ".join(words)
