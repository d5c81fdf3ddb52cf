# SPDX-License-Identifier: Apache-2.0
"""Places that fall silent and speak again, and what hangs although they do."""

import threading
import time
from collections.abc import Callable, Iterator
from math import inf

import pytest
from stand_in import KEY, place

from csi_addons_rbd.ceph import pulse as module
from csi_addons_rbd.ceph.pulse import Pulse
from csi_addons_rbd.replication.calls import Credentials, Place
from csi_addons_rbd.replication.errors import ClusterUnreachable, PermissionDenied

CREDENTIALS = Credentials(user="somebody", key=KEY)
HERE = place(1)
THERE = place(2)


class Cluster:
    """Answers probes, or does not; slowly, when it is frozen."""

    def __init__(self) -> None:
        self.thawed = threading.Event()
        self.thawed.set()
        self.fault: Exception | None = None
        self.probes = 0
        self.revived: list[Place] = []

    def probe(self, place: Place, credentials: Credentials) -> None:
        """Answer one probe."""
        assert credentials == CREDENTIALS
        self.probes += 1
        self.thawed.wait()
        if self.fault is not None and place == HERE:
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
    return Pulse(cluster.probe, cluster.revived.append)


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
        eventually(lambda: pulse._watched[HERE].ended is not None)
        with pulse.use(HERE, CREDENTIALS, 0.3):
            assert not pulse.look()
            eventually(lambda: len(pulse.look()) == 1)
    assert cluster.revived == [HERE]


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


def use(pulse: Pulse, place: Place) -> None:
    """Use a place for a moment."""
    with pulse.use(place, CREDENTIALS, 1):
        pass


def eventually(check: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until a check holds."""
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until, "did not come true in time"
        time.sleep(0.01)
