# SPDX-License-Identifier: Apache-2.0
"""What this process remembers of an image between calls: only patience, never truth.

Whether a site is *stale*, or a copy stands still, shows over time alone, and time by the
cluster's clock passes only while somebody writes. Forgetting all of it costs a longer wait,
nothing else.
"""

import threading
import time
from dataclasses import dataclass, field
from typing import Final

from csi_addons_rbd.replication.image import ImageSpec, MirrorView, SiteStatus
from csi_addons_rbd.replication.notes import Synced
from csi_addons_rbd.replication.patience import Hindsight
from csi_addons_rbd.replication.sync_info import Role, role, sync_report, text

STALE_AFTER: Final = 90
"""Seconds without a new status after which a site counts as silent: three heartbeats."""
_CHECK_INTERVAL: Final = 30
"""rbd-mirror's ``rbd_mirror_image_state_check_interval`` by default, in seconds."""
_GAP: Final = 1200
"""Seconds unobserved after which a lasting condition has to be seen anew: longer than the longest
pause that a controller makes between two calls (1000 s)."""
_BLIND: Final = 60
"""Seconds unobserved up to which they count for what might have been different meanwhile."""
SILENCE: Final = 60
"""Seconds for which a peer must be down where only it can tell whether it has newer data."""
LOOKED: Final = 5
"""Seconds for which the call itself must have seen a lasting condition: one look is none."""
_MOST: Final = 20_000
_DECIDED: Final = (Role.PRIMARY, Role.DEMOTED)


@dataclass(slots=True)
class Lasting:
    """Since when something has been seen without a change, by the monotonic clock."""

    value: object = None
    since: float = 0.0
    seen: float = float("-inf")
    blind: float = _GAP
    """Seconds unobserved up to which they count: few where the value may have changed meanwhile,
    and have changed back."""

    def observe(self, value: object) -> float:
        """Note the value and return for how many seconds it has stood, without a gap."""
        now = time.monotonic()
        if value != self.value or now - self.seen > _GAP:
            self.value, self.since = value, now
        elif now - self.seen > self.blind:
            self.since += now - self.seen
        self.seen = now
        return now - self.since


@dataclass(slots=True)
class Observation:
    """The memory of one image."""

    check_interval: int = _CHECK_INTERVAL
    heartbeats: dict[str, tuple[int, float]] = field(default_factory=dict)
    progress: Lasting = field(default_factory=Lasting)
    undecided: Lasting = field(default_factory=lambda: Lasting(blind=_BLIND))
    """Whether the live peers call the image neither primary nor demoted."""
    unheard: Lasting = field(default_factory=Lasting)
    silence: Lasting = field(default_factory=Lasting)
    unwatched: Lasting = field(default_factory=lambda: Lasting(blind=_BLIND))
    """The lock whose client does not watch; it may have come back to its watch, and lost it again,
    while nobody looked."""
    unscheduled: Lasting = field(default_factory=Lasting)
    """Whether the manager lacks the schedule that it once took over."""
    last_sync: Synced | None = None
    """Newest time at which a peer was known to have everything."""
    _clock: tuple[int, float] = (0, 0.0)
    """A moment of the cluster's clock, and when it had come, by the monotonic clock."""
    _term: tuple[str, int] = ("", 0)
    """The mirroring, and the first of what is of the present term as primary."""
    _primary: Hindsight | None = None
    """Which statuses cannot be older than that term, while it lasts."""

    def note(self, view: MirrorView) -> None:
        """Take in one reading."""
        now = time.monotonic()
        newest = max(view.newest_update, view.history.newest_at or 0)
        if newest > self.cluster_time:
            self._clock = (newest, now)
        self._note_term(view)
        for status in view.statuses:
            last, _ = self.heartbeats.get(status.site, (None, now))
            if status.last_update != last:
                self.heartbeats[status.site] = (status.last_update, now)

    def _note_term(self, view: MirrorView) -> None:
        """Forget what is of an earlier term as primary."""
        if not view.primary:
            self.last_sync = self._primary = None
            return
        mirroring, first = self._term
        primary = self._primary  # read once: another thread may forget it meanwhile
        known = first if primary is not None and view.mirroring == mirroring else -1
        if primary is None or view.history.first > known:
            self._primary = primary = Hindsight(self.check_interval)
        # what shows where the term began may be dropped while it lasts
        self._term = (view.mirroring, max(known, view.history.first))
        primary.note(view)

    @property
    def cluster_time(self) -> int:
        """The cluster's clock, or earlier: it shows only as somebody writes, ours goes on."""
        seen, since = self._clock
        return seen + int(time.monotonic() - since) if seen else 0

    def beside(self, peer: SiteStatus, view: MirrorView) -> bool:
        """Tell whether a peer is primary, too: of a status that is not older than the term here.

        For one state check after its demotion a site still calls itself primary.
        """
        if role(peer) is not Role.PRIMARY or not view.primary:
            return False
        began = view.history.began_at
        if began is not None and peer.last_update > began + self.check_interval:
            return True
        primary = self._primary
        return primary is not None and primary.confirms(peer)

    def alive(self, status: SiteStatus, view: MirrorView) -> bool:
        """Tell whether the site's rbd-mirror is up and has written within 90 s.

        Measured against the newest status of any site, and against the time for which this
        process has seen the same status.
        """
        if not status.up or view.newest_update - status.last_update >= STALE_AFTER:
            return False
        last, since = self.heartbeats.get(status.site, (0, time.monotonic()))
        return status.last_update != last or time.monotonic() - since < STALE_AFTER

    def may_speak(self, view: MirrorView) -> bool:
        """Tell whether a peer has said nothing of the image yet, but may at any moment.

        So it is for half a minute with every new image; silence then does not mean that
        nobody is there.
        """
        lasted = self.unheard.observe(None if view.peers else view.mirroring)
        return view.peered and not view.peers and lasted < STALE_AFTER

    def silent_for(self, view: MirrorView, hindsight: Hindsight) -> float:
        """Return for how many seconds no peer has been up; 0 until the call has looked for a while.

        What nobody watched counts, too: a peer that was up meanwhile has written a status.
        """
        alive = any(self.alive(peer, view) for peer in view.peers)
        words = frozenset((peer.site, peer.last_update) for peer in view.peers)
        lasted = self.silence.observe(None if alive else words)
        return 0 if alive or hindsight.age < LOOKED else lasted

    def undecided_for(self, view: MirrorView) -> float:
        """Return for how many seconds every live peer has had no word on who is primary.

        To be asked of every reading: rbd-mirror starts its replay anew at each state check, for a
        moment of which a demoted peer has none, either.
        """
        alive = [peer for peer in view.peers if self.alive(peer, view)]
        decided = any(role(peer) in _DECIDED or sync_report(peer).syncing for peer in alive)
        lasted = self.undecided.observe(bool(alive) and not decided)
        return lasted if self.undecided.value else 0

    def standstill(self, view: MirrorView) -> float:
        """Return for how many seconds nothing has moved towards this copy."""
        fingerprint = [view.history, *((each.state, _movement(each)) for each in view.statuses)]
        return self.progress.observe(fingerprint)


class Observations:
    """The observations of one worker, by image; the oldest give way."""

    def __init__(self, check_interval: int) -> None:
        self._check_interval = check_interval
        self._lock = threading.Lock()
        self._images: dict[ImageSpec, Observation] = {}

    def of(self, spec: ImageSpec) -> Observation:
        """Return the image's observation, a new one at first."""
        with self._lock:
            observation = self._images.pop(spec, None) or Observation(
                check_interval=self._check_interval
            )
            self._images[spec] = observation
            if len(self._images) > _MOST:
                del self._images[next(iter(self._images))]
            return observation


def _movement(status: SiteStatus) -> tuple[object, ...]:
    report = sync_report(status)
    return (text(status), report.copied_until, report.last_bytes, report.position)
