# SPDX-License-Identifier: Apache-2.0
"""Which of the clusters that a handle may lead to is asked.

config.json often lists the clusters of both sites (Rook, ODF), and a key may be valid on both. So
who the clusters are, and which of them accept the key, is asked before a call that writes, unless
``--local-clusters`` says which are this site's: the volume's copy on the other site must never be
hit. A call that reads is answered by the first cluster that has the volume.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

from csi_addons_rbd.clusters import Leads
from csi_addons_rbd.replication.calls import (
    Answer,
    Call,
    DestinationCall,
    Identified,
    IdentifyCall,
    InfoCall,
    Place,
    PromoteCall,
)
from csi_addons_rbd.replication.errors import (
    ClusterAmbiguous,
    ClusterUnreachable,
    DeadlineExceeded,
    DriverError,
    Exhausted,
    ImageBeingDeleted,
    ImageInTrash,
    InternalError,
    PermissionDenied,
    PromotionBarred,
    Unauthenticated,
    Unavailable,
    VolumeElsewhere,
    VolumeNotFound,
)
from csi_addons_rbd.worker_process import Wait
from csi_addons_rbd.workers import Workers, by_cluster

_READING: Final = (InfoCall, DestinationCall)
_ELSEWHERE: Final = (
    VolumeNotFound,
    Unauthenticated,
    VolumeElsewhere,
    ImageInTrash,
    ImageBeingDeleted,
)
"""After these the volume may lie in another cluster, and nothing was begun in this one."""
_UNREADABLE: Final = (PermissionDenied, Unavailable, DeadlineExceeded, Exhausted)
"""After these, too, a call that reads may be answered by another one."""
_OURS: Final = (Exhausted, InternalError)
"""These say nothing of a cluster."""
_SPAWNING: Final = 5.0
"""Seconds that a worker may take to come up before it connects, on a busy node."""
_NAME_THEM: Final = (
    "name this site's clusters, by their clusterID in config.json, in --local-clusters of the "
    "driver"
)
_Ask: TypeAlias = Callable[[], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Identity:
    """What became of asking the cluster behind one list of monitors who it is."""

    places: tuple[Place, ...]
    fsid: str
    """Empty unless it accepts the key."""
    error: DriverError | None

    @property
    def cluster(self) -> str:
        return self.places[0].cluster

    @property
    def refused(self) -> Unauthenticated | None:
        return self.error if isinstance(self.error, Unauthenticated) else None


class Candidates:
    """The clusters behind a handle. Every method may be called from any thread.

    Args:
        workers: Who asks a cluster.
        connect_timeout: Bound of one connect to a cluster, in seconds.
    """

    def __init__(self, workers: Workers, *, connect_timeout: float) -> None:
        self._workers = workers
        self._patience = connect_timeout + _SPAWNING

    def ask(self, call: Call, leads: Leads, wait: Wait) -> Answer:
        """Ask the cluster in which the volume is.

        Raises:
            ClusterAmbiguous: a call that writes leads to several clusters, and not exactly one of
                them is known to accept the key.
            DriverError: what the clusters answered, or why they could not: the first reason, and
                proven absence only where all of them proved it.
        """
        try:
            return self._ask(call, leads, wait)
        except VolumeElsewhere as exc:
            if isinstance(call, PromoteCall):  # which the controller repeats by force: in vain
                raise PromotionBarred(exc.message) from exc
            raise

    def _ask(self, call: Call, leads: Leads, wait: Wait) -> Answer:
        reading = isinstance(call, _READING)
        one = len({place.monitors for place in leads.places}) == 1
        if not leads.named and not reading:
            if not one:
                return self._write(call, leads, wait)
            _require_all(call, leads, leads.places)
        if reading and not one:
            return self._read(call, leads.places, wait)
        return self._in_order(call, tuple(by_cluster(leads.places)), wait)

    def _in_order(self, call: Call, groups: Iterable[tuple[Place, ...]], wait: Wait) -> Answer:
        errors: list[DriverError] = []
        for places in groups:
            try:
                return self._workers.ask(call, places, wait)
            except _ELSEWHERE as exc:
                errors.append(exc)
        raise _first(errors)

    def _read(self, call: Call, places: tuple[Place, ...], wait: Wait) -> Answer:
        """Ask those that accept the key, in order; all say at the same time whether they do."""
        errors: list[DriverError] = []
        groups = tuple(_by_monitors(places))
        with self._identifying(call, groups, wait) as identities:
            for number, (group, identify) in enumerate(zip(groups, identities, strict=True), 1):
                identity = _identity(group, identify)
                if identity.error is not None:
                    errors.append(identity.error)
                    continue
                left = wait.until.remaining
                try:
                    return self._workers.ask(
                        call, group, wait if number == len(groups) else wait.at_most(left / 2)
                    )
                except (*_ELSEWHERE, *_UNREADABLE) as exc:
                    errors.append(exc)
        raise _first(errors)

    def _write(self, call: Call, leads: Leads, wait: Wait) -> Answer:
        """Ask the only cluster that accepts the key."""
        groups = tuple(_by_monitors(leads.places))
        with self._identifying(call, groups, wait) as identities:
            found = [_identity(group, each) for group, each in zip(groups, identities, strict=True)]
        places = _only_one(found)
        _require_all(call, leads, places)
        try:
            return self._workers.ask(call, places, wait)
        except VolumeNotFound as exc:
            refused = next((each for each in found if each.refused), None)
            if refused is None:
                raise
            # it may lie where the key is refused: a wrong secret proves nothing
            raise Unauthenticated(
                f"{exc.message}; but cluster {refused.cluster}, to which it leads, too, refuses "
                f"the key ({refused.error}), so that its absence there is not proven; if that is "
                f"no cluster of this site, {_NAME_THEM}; if it is, mend the secret"
            ) from exc

    @contextmanager
    def _identifying(
        self, call: Call, groups: Iterable[tuple[Place, ...]], wait: Wait
    ) -> Iterator[list[_Ask]]:
        """Have all of them asked at once who they are; each answer is waited for when called."""
        question = IdentifyCall(volume=call.volume, credentials=call.credentials)
        bound = wait.at_most(min(self._patience, wait.until.remaining / 2))
        with ExitStack() as asked:
            answers: list[_Ask] = []
            for group in groups:
                ended = asked.enter_context(ExitStack())
                try:
                    asking = self._workers.asking(question, group, bound)
                    ask = ended.enter_context(asking)
                    answers.append(_ending(ended, ask, group[0].cluster, bound))
                except DriverError as exc:
                    answers.append(_raising(exc))
            yield answers


def _ending(asked: ExitStack, ask: _Ask, cluster: str, bound: Wait) -> _Ask:
    """Have a question take no place of its cluster any more, once it is answered."""

    def answer() -> Answer:
        with asked:
            try:
                return ask()
            except (ClusterUnreachable, DeadlineExceeded):
                if bound.until.remaining:
                    raise
                raise ClusterUnreachable(
                    f"cluster {cluster} did not tell within {bound.seconds:.0f} s whether it "
                    "accepts the key; see its health, and the route to its monitors"
                ) from None

    return answer


def _raising(exc: DriverError) -> _Ask:
    def answer() -> Answer:
        raise exc

    return answer


def _identity(places: tuple[Place, ...], identify: _Ask) -> _Identity:
    try:
        answer = identify()
    except PermissionDenied:
        # whom caps forbid even this was accepted, and is told so by the call itself
        return _Identity(places=places, fsid=f"of {places[0].cluster}", error=None)
    except DriverError as exc:
        return _Identity(places=places, fsid="", error=exc)
    if not isinstance(answer, Identified):
        raise InternalError(f"the worker answered {answer!r}, not {Identified.__name__}")
    return _Identity(places=places, fsid=answer.fsid, error=None)


def _only_one(found: list[_Identity]) -> tuple[Place, ...]:
    """Return the places of the only cluster that accepts the key.

    Raises:
        Unauthenticated: each refuses it.
        ClusterAmbiguous: several accept it, or one does not answer.
    """
    silent = [each for each in found if each.error is not None and not each.refused]
    for each in silent:
        if isinstance(each.error, _OURS) or type(each.error) is Unavailable:
            raise each.error
    if silent:
        causes = "; ".join(f"cluster {each.cluster}: {each.error}" for each in silent)
        raise ClusterAmbiguous(
            f"which cluster the volume is to be changed on is not known, since not all of "
            f"{_listed(found)} told whether they accept the key ({causes}); nothing was changed; "
            f"the controller retries; if it lasts, {_NAME_THEM}"
        )
    accepting = [each for each in found if each.fsid]
    if not accepting:
        raise next(each.refused for each in found if each.refused)
    if len({each.fsid for each in accepting}) > 1:
        fsids = ", ".join(f"{each.cluster} (fsid {each.fsid})" for each in accepting)
        raise ClusterAmbiguous(
            f"the key is valid on several clusters to which the volume leads: {fsids}; which of "
            f"them is to be changed is not known, and nothing was changed; {_NAME_THEM}"
        )
    return tuple(place for each in accepting for place in each.places)


def _require_all(call: Call, leads: Leads, places: tuple[Place, ...]) -> None:
    """Refuse to write where a cluster that cannot be asked may be the one that is meant.

    The handle's own cluster is: it is this site's, or else it would refuse the key.
    """
    if leads.dropped and not any(place.cluster == call.volume.cluster for place in places):
        raise ClusterAmbiguous(
            f"volume {call.volume} leads to cluster {', '.join(leads.dropped)}, too, which cannot "
            f"be asked whether it accepts the key ({leads.doubt}), so cluster {places[0].cluster} "
            f"was not changed; mend the entry of config.json, or {_NAME_THEM}"
        )


def _first(errors: list[DriverError]) -> DriverError:
    """Return the first error that is not proven absence; absence where there is none."""
    for error in errors:
        if not isinstance(error, VolumeNotFound):
            return error
    return VolumeNotFound("; ".join(error.message for error in errors))


def _by_monitors(places: Iterable[Place]) -> Iterator[tuple[Place, ...]]:
    """Put the places behind the same monitors together, in the order in which they come."""
    groups: dict[tuple[str, ...], list[Place]] = {}
    for place in places:
        groups.setdefault(place.monitors, []).append(place)
    yield from (tuple(group) for group in groups.values())


def _listed(found: list[_Identity]) -> str:
    return ", ".join(each.cluster for each in found)
