# SPDX-License-Identifier: Apache-2.0
"""Whether a cluster answers, and whether something hangs although it does.

A place (a pool, or a namespace in it) that failed to answer a user is *silent* to that user: calls
are refused at once, and it alone is probed, once a second, until it answers. What was inside of
librbd during the silence and is not out again well after it, hangs for good (Ceph 16 was seen to):
then only a new process helps.

One OSD may be silent while others answer. So of what takes long inside, the objects that it works
on are probed, too: their silence refuses nobody, but what lived through it may hang just as well.

Users are told apart, since from Ceph 18 on OSDs leave a user without any caps for them unanswered.
Others must not be refused for that.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Final, TypeAlias

import structlog

from csi_addons_rbd.ceph.limits import in_background
from csi_addons_rbd.replication.calls import Credentials, Place
from csi_addons_rbd.replication.errors import ClusterUnreachable, DriverError, Exhausted

EVERY: Final = 1.0
"""Seconds between two looks, and between two probes of a silent place."""
_LONG: Final = 3.0
"""Seconds inside of one use of Ceph after which its place is probed, too: a write says nothing
of a cluster that fell silent meanwhile, since it knows no time limit."""
LEASH: Final = 20.0
"""Seconds after the end of a silence by which a use that lived through it is over, or hangs."""
LONG_LEASH: Final = 300.0
"""The same for what may take minutes by itself."""
_FORGOTTEN: Final = 600.0
"""Seconds after which a silent place that nobody asks for is probed no longer: its monitors may
have moved, or the cluster may be gone from the configuration."""

_MOST: Final = 64
"""Users that are watched at once, each by a thread; what others wait for bounds itself. As many
images are."""

Objects: TypeAlias = tuple[str, ...]
"""Names of RADOS objects; none stand for the place as such."""
Probe: TypeAlias = Callable[[Place, Credentials, Objects], None]
_User: TypeAlias = tuple[Place, Credentials, Objects]
"""One user in one place, or with some objects of it."""
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Use:
    """One stay inside of Ceph's libraries."""

    place: Place
    credentials: Credentials
    leash: float
    """Seconds that it may go on after a silence; infinite for what may wait for somebody else."""
    began: float
    objects: Objects = ()
    """What it works on, as far as that is known."""

    @property
    def users(self) -> "frozenset[_User]":
        """Who stays inside, and where."""
        return frozenset((self.place, self.credentials, each) for each in ((), self.objects))

    def long(self, now: float) -> bool:
        """Tell whether it takes so long that a look at the place is due."""
        return now - self.began > _LONG and self.leash < inf


@dataclass(slots=True, kw_only=True)
class _Watched:
    """What is known of a place and a user since there was reason to look."""

    cause: str = ""
    """Why it is silent; empty while it is not, or not known to be."""
    since: float
    asked: float
    """When the user last asked for it."""
    ended: float | None = None
    """When its last silence ended."""
    heard: float = -inf
    """When the place last answered anybody, since it is watched."""

    @property
    def alone(self) -> bool:
        """Whether the place is silent to this user, and answers others."""
        return self.heard >= self.since


class Pulse:
    """The places of one worker. Every method may be called from any thread.

    Args:
        probe: Reads from a place, or some objects of it; raises ``ClusterUnreachable`` when no
            answer came.
        revived: Told of a place and a user that it answers again after a silence.
    """

    def __init__(self, probe: Probe, revived: Callable[[Place, Credentials], None]) -> None:
        self._probe = probe
        self._revived = revived
        self._lock = threading.Lock()
        self._uses: set[Use] = set()
        self._watched: dict[_User, _Watched] = {}
        self.answered: float | None = None
        """When a use ended well, in Unix seconds; ``None`` when none has yet."""

    @contextmanager
    def use(
        self, place: Place, credentials: Credentials, leash: float, objects: Objects = ()
    ) -> Iterator[None]:
        """Stay inside of Ceph's libraries for the length of a block.

        Raises:
            ClusterUnreachable: the place is known to be silent to this user.
        """
        self._require_answers((place, credentials, ()))
        use = Use(
            place=place,
            credentials=credentials,
            leash=leash,
            began=time.monotonic(),
            objects=objects,
        )
        with self._lock:
            self._uses.add(use)
        try:
            yield
            self._note_answer(place)
        except ClusterUnreachable:
            self._watch(use)
            raise
        finally:
            with self._lock:
                self._uses.discard(use)

    def look(self) -> tuple[Use, ...]:
        """Have places probed in which something takes long; return what hangs for good."""
        now = time.monotonic()
        with self._lock:
            long = [use for use in self._uses if use.long(now)]
            stuck = tuple(use for use in long if self._hangs(use, now))
        for use in long:
            self._watch(use)
        return stuck

    @property
    def silent(self) -> tuple[Place, ...]:
        """The places that answer nobody."""
        with self._lock:
            watched = self._watched.items()
            silent = (user for user, each in watched if each.cause and not each.alone)
            return (*{place for place, _, objects in silent if not objects},)

    def _note_answer(self, place: Place) -> None:
        self.answered = time.time()
        with self._lock:
            for (watched_place, _, _), watched in self._watched.items():
                if watched_place == place:
                    watched.heard = time.monotonic()

    def _require_answers(self, user: _User) -> None:
        with self._lock:
            watched = self._watched.get(user)
            if watched is None or not watched.cause:
                return
            watched.asked = time.monotonic()
            cause, seconds = watched.cause, watched.asked - watched.since
        place, credentials, _ = user
        raise ClusterUnreachable(
            f"cluster {place.cluster} has not answered client.{credentials.user} for {seconds:.0f} "
            f"s and is tried again every second; refused meanwhile; the cause: {cause}"
        )

    def _hangs(self, use: Use, now: float) -> bool:
        """Tell whether it lived through a silence of the place, or of its objects, and goes on.

        While one of them is silent it may only wait for that, so the last one counts.
        """
        watched = [self._watched[user] for user in use.users if user in self._watched]
        if any(each.cause for each in watched):
            return False
        ends = [each.ended for each in watched if each.ended is not None and use.began < each.ended]
        return bool(ends) and now - max(ends) > use.leash

    def _watch(self, use: Use) -> None:
        """Probe a place, and the objects of a use, until all answer and nothing takes long."""
        for user in use.users:
            self._watch_one(user)

    def _watch_one(self, user: _User) -> None:
        """Probe them; one thread for each."""
        now = time.monotonic()
        watched = _Watched(since=now, asked=now)
        _, _, objects = user
        with self._lock:
            of_this_kind = sum(bool(each) is bool(objects) for _, _, each in self._watched)
            if user in self._watched or of_this_kind >= _MOST:
                return
            self._watched[user] = watched
        try:
            in_background(partial(self._probe_on, user, watched))
        except Exhausted:  # the next look tries again
            with self._lock:
                del self._watched[user]

    def _probe_on(self, user: _User, watched: _Watched) -> None:
        place, credentials, objects = user
        while True:
            asked = time.monotonic()
            cause = self._silence(user)
            if cause:
                self._fell_silent(user, watched, cause)
            elif watched.cause or time.monotonic() - asked > _LONG:
                self._answered(user, watched)
            with self._lock:
                if self._is_over(user, watched):
                    del self._watched[user]
                    break
            time.sleep(EVERY)
        if watched.cause and not objects:
            _log.warning(
                "a cluster does not answer, and nobody asks for it any more",
                cluster=place.cluster,
                user=credentials.user,
            )

    def _is_over(self, user: _User, watched: _Watched) -> bool:
        """Tell whether there is no reason to look at a place any more."""
        now = time.monotonic()
        inside = [use for use in self._uses if user in use.users and use.leash < inf]
        _, _, objects = user
        if watched.cause:
            return not inside and (bool(objects) or now - watched.asked > _FORGOTTEN)
        # what lived through a silence is watched until it is out, however short it is inside
        since = -inf if watched.ended is None else watched.ended
        return not any(use.long(now) or use.began < since for use in inside)

    def _silence(self, user: _User) -> str:
        """Return why a place does not answer; empty when it does, be it with a refusal."""
        place, *_ = user
        try:
            self._probe(*user)
        except ClusterUnreachable as exc:
            return exc.message
        except DriverError:
            return ""
        except Exception:  # noqa: BLE001 - the place must be probed on
            _log.exception("a fault of the driver", place=place)
        return ""

    def _fell_silent(self, user: _User, watched: _Watched, cause: str) -> None:
        if not watched.cause:
            self._tell(_log.error, "does not answer", user, error=cause)
            watched.since = time.monotonic()
        watched.cause = cause

    def _answered(self, user: _User, watched: _Watched) -> None:
        place, credentials, _ = user
        self._tell(_log.warning, "answers again", user)
        self._revived(place, credentials)
        watched.cause, watched.ended = "", time.monotonic()

    def _tell(self, log: Callable[..., None], words: str, user: _User, **more: str) -> None:
        place, credentials, objects = user
        if not objects:
            log(f"a cluster {words}", cluster=place.cluster, user=credentials.user, **more)
        elif place not in self.silent:
            more["objects"] = " ".join(objects)
            log(f"a part of a cluster {words}", cluster=place.cluster, pool=place.pool, **more)
