# SPDX-License-Identifier: Apache-2.0
"""Places that fall silent and speak again, and what hangs although they do."""

import threading
import time
from collections.abc import Callable, Iterator
from math import inf

import pytest
from stand_in import KEY, place

from csi_addons_rbd.ceph import pulse as module
from csi_addons_rbd.ceph.pulse import Objects, Pulse
from csi_addons_rbd.replication.calls import Credentials, Place
from csi_addons_rbd.replication.errors import ClusterUnreachable, PermissionDenied

CREDENTIALS = Credentials(user="somebody", key=KEY)
OTHER = Credentials(user="another", key=KEY)
HERE = place(1)
THERE = place(2)


class Cluster:
    """Answers probes, or does not; slowly, when it is frozen."""

    def __init__(self) -> None:
        self.thawed = threading.Event()
        self.thawed.set()
        self.fault: Exception | None = None
        self.probes = 0
        self.refused = CREDENTIALS
        """Who is not answered while there is a fault."""
        self.revived: list[Place] = []
        self.frozen: set[str] = set()
        """Objects whose OSD does not answer, while all others do."""

    def probe(self, place: Place, credentials: Credentials, objects: Objects) -> None:
        """Answer one probe."""
        self.probes += 1
        self.thawed.wait()
        if self.frozen & set(objects):
            raise ClusterUnreachable("one OSD is frozen")
        if self.fault is not None and (place, credentials) == (HERE, self.refused):
            raise self.fault


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 0.02)
    monkeypatch.setattr(module, "_LONG", 0.1)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster that answers."""
    cluster = Cluster()
    yield cluster
    cluster.fault = None
    cluster.thawed.set()


@pytest.fixture
def pulse(cluster: Cluster) -> Pulse:
    """Its pulse."""
    return Pulse(cluster.probe, lambda place, _: cluster.revived.append(place))


def miss(pulse: Pulse, place: Place = HERE) -> None:
    """Use a place that does not answer."""
    with (
        pytest.raises(ClusterUnreachable, match="no answer"),
        pulse.use(place, CREDENTIALS, 1),
    ):
        raise ClusterUnreachable("no answer")


def test_a_silent_place_refuses_at_once_and_is_probed_alone(cluster: Cluster, pulse: Pulse) -> None:
    """The refusal tells why, and since when; other places go on; it ends with an answer."""
    cluster.fault = ClusterUnreachable("monitors are dead")
    miss(pulse)
    eventually(lambda: pulse.silent == (HERE,))
    with pytest.raises(ClusterUnreachable, match="monitors are dead"):
        use(pulse, HERE)
    use(pulse, THERE)
    cluster.fault = None
    eventually(lambda: not pulse.silent)
    use(pulse, HERE)
    assert cluster.revived == [HERE]


def test_a_user_that_is_not_answered_costs_others_nothing(cluster: Cluster, pulse: Pulse) -> None:
    """From Ceph 18 on it may lack caps for OSDs; the place is not silent for that."""
    cluster.fault = ClusterUnreachable("no caps")
    miss(pulse)
    eventually(lambda: pulse.silent == (HERE,))
    use(pulse, HERE, OTHER)
    assert not pulse.silent
    with pytest.raises(ClusterUnreachable, match=r"client\.somebody"):
        use(pulse, HERE)
    use(pulse, HERE, OTHER)


def test_a_dead_cluster_is_silent_beside_a_user_without_caps(
    cluster: Cluster, pulse: Pulse
) -> None:
    """Whoever was answered before counts again, once that one is not answered either."""
    cluster.fault = ClusterUnreachable("no caps")
    miss(pulse)
    eventually(lambda: pulse.silent == (HERE,))
    use(pulse, HERE, OTHER)
    assert not pulse.silent
    cluster.refused = OTHER
    with pytest.raises(ClusterUnreachable), pulse.use(HERE, OTHER, 1):
        raise ClusterUnreachable("dead")
    eventually(lambda: pulse.silent == (HERE,))


def test_the_threads_that_watch_are_bounded(
    cluster: Cluster, pulse: Pulse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handles and secrets may name anything; nothing is kept of what answers."""
    monkeypatch.setattr(module, "_MOST", 3)
    cluster.fault = ClusterUnreachable("silent")
    cluster.thawed.clear()
    for number in range(10):
        use(pulse, place(100 + number))
        miss(pulse, place(200 + number))
    assert len(pulse._watched) == 3


def test_the_last_answer_is_remembered(pulse: Pulse) -> None:
    """A miss leaves it as it was."""
    miss(pulse)
    assert pulse.answered is None
    use(pulse, THERE)
    answered = pulse.answered
    assert answered is not None
    assert 0 <= time.time() - answered < 5
    miss(pulse)
    assert pulse.answered == answered


def test_one_miss_beside_an_answer_refuses_nobody(cluster: Cluster, pulse: Pulse) -> None:
    """One object that cannot be read is no silent place."""
    miss(pulse)
    eventually(lambda: cluster.probes >= 1)
    use(pulse, HERE)
    assert not pulse.silent


def test_a_refusal_is_an_answer(cluster: Cluster, pulse: Pulse) -> None:
    """Whoever may not read has reached the cluster."""
    cluster.fault = PermissionDenied("caps")
    miss(pulse)
    eventually(lambda: cluster.probes >= 1)
    use(pulse, HERE)


def test_a_fault_of_the_probe_does_not_end_it(cluster: Cluster, pulse: Pulse) -> None:
    """A place must not stay silent for good."""
    cluster.fault = ClusterUnreachable("silent")
    miss(pulse)
    eventually(lambda: bool(pulse.silent))
    cluster.fault = ValueError("whatever")
    eventually(lambda: not pulse.silent)


def test_what_lived_through_a_silence_and_goes_on_hangs(cluster: Cluster, pulse: Pulse) -> None:
    """Only after its leash, and only what began before the cluster answered again."""
    with pulse.use(HERE, CREDENTIALS, 0.3), pulse.use(HERE, CREDENTIALS, inf):
        cluster.thawed.clear()
        eventually(lambda: not pulse.look() and cluster.probes >= 1)
        time.sleep(0.5)
        assert not pulse.look(), "nobody hangs while the cluster is silent"
        cluster.thawed.set()
        eventually(lambda: pulse._watched[HERE, CREDENTIALS, ()].ended is not None)
        with pulse.use(HERE, CREDENTIALS, 0.3):
            assert not pulse.look()
            eventually(lambda: len(pulse.look()) == 1)
    assert cluster.revived == [HERE]


def test_what_began_in_the_last_moment_of_a_silence_is_watched_too(
    cluster: Cluster, pulse: Pulse
) -> None:
    """It may hang for good just as well, though it is not long inside when the cluster answers."""
    cluster.thawed.clear()
    with pulse.use(HERE, CREDENTIALS, 0.3):
        eventually(lambda: not pulse.look() and cluster.probes >= 1)
        time.sleep(0.15)
    with pulse.use(HERE, CREDENTIALS, 0.3):
        cluster.thawed.set()
        eventually(lambda: len(pulse.look()) == 1)
    eventually(lambda: not pulse._watched)


def test_what_lived_through_the_silence_of_one_osd_hangs(cluster: Cluster, pulse: Pulse) -> None:
    """Others answered all the time, so that the place was never silent, and refused nobody."""
    cluster.frozen = {"header"}
    with pulse.use(HERE, CREDENTIALS, 0.3, ("id", "header")):
        eventually(lambda: not pulse.look() and len(pulse._watched) == 2)
        eventually(lambda: bool(pulse._watched[HERE, CREDENTIALS, ("id", "header")].cause))
        time.sleep(0.5)
        assert not pulse.look(), "nobody hangs while they are silent"
        assert not pulse.silent
        use(pulse, HERE)
        cluster.frozen.clear()
        with pulse.use(HERE, CREDENTIALS, 0.1, ("another",)):
            eventually(lambda: len(pulse.look()) == 1)
            assert {each.objects for each in pulse.look()} == {("id", "header")}
    eventually(lambda: not pulse._watched)


def test_nobody_hangs_while_an_osd_is_silent_longer_than_its_cluster(
    cluster: Cluster, pulse: Pulse
) -> None:
    """The whole cluster was silent; then all answer but the OSD of what the use works on."""
    cluster.frozen = {"header"}
    with pulse.use(HERE, CREDENTIALS, 1, ("header",)):
        cluster.thawed.clear()
        eventually(lambda: not pulse.look() and len(pulse._watched) == 2)
        header = pulse._watched[HERE, CREDENTIALS, ("header",)]
        time.sleep(0.2)
        cluster.thawed.set()
        eventually(lambda: pulse._watched[HERE, CREDENTIALS, ()].ended is not None)
        eventually(lambda: bool(header.cause))
        time.sleep(1.2)  # longer than the leash
        assert not pulse.look(), "its own OSD is silent"
        cluster.frozen.clear()
        eventually(lambda: header.ended is not None)
        assert not pulse.look(), "the leash counts from the end of the last silence"
        eventually(lambda: len(pulse.look()) == 1)


def test_a_silent_place_for_which_nobody_asks_is_forgotten(
    cluster: Cluster, pulse: Pulse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its monitors may have moved: it would be probed, and shown as silent, for ever."""
    monkeypatch.setattr(module, "_FORGOTTEN", 0.3)
    cluster.fault = ClusterUnreachable("monitors are gone")
    miss(pulse)
    eventually(lambda: bool(pulse.silent))
    until = time.monotonic() + 1
    while time.monotonic() < until:
        with pytest.raises(ClusterUnreachable, match="gone"):
            use(pulse, HERE)
        time.sleep(0.02)
    eventually(lambda: not pulse._watched)
    assert not cluster.revived


def test_what_takes_long_in_peace_does_not_hang(cluster: Cluster, pulse: Pulse) -> None:
    """A promotion may roll back for many minutes."""
    with pulse.use(HERE, CREDENTIALS, 0.1):
        until = time.monotonic() + 1
        while time.monotonic() < until:
            assert not pulse.look()
            time.sleep(0.02)
    assert cluster.probes > 1


def test_probing_ends_when_nothing_takes_long(cluster: Cluster, pulse: Pulse) -> None:
    """In peace nobody is asked for nothing."""
    with pulse.use(HERE, CREDENTIALS, 1):
        eventually(lambda: not pulse.look() and cluster.probes > 1)
    eventually(lambda: not pulse._watched)
    asked = cluster.probes
    time.sleep(0.2)
    assert cluster.probes == asked


def use(pulse: Pulse, place: Place, credentials: Credentials = CREDENTIALS) -> None:
    """Use a place for a moment."""
    with pulse.use(place, credentials, 1):
        pass


def eventually(check: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until a check holds."""
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until, "did not come true in time"
        time.sleep(0.01)
