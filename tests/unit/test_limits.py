# SPDX-License-Identifier: Apache-2.0
"""What may wait without end is waited for no longer than agreed."""

import threading

import pytest

from csi_addons_rbd.ceph.limits import in_background, within
from csi_addons_rbd.replication.errors import ClusterUnreachable, Exhausted, PermissionDenied

LATE = ClusterUnreachable("too late")


def test_what_comes_in_time() -> None:
    """Its result, or its error."""
    assert within(5, lambda: 7, LATE) == 7

    def refuse() -> None:
        raise PermissionDenied("caps")

    with pytest.raises(PermissionDenied, match="caps"):
        within(5, refuse, LATE)


def test_what_comes_too_late() -> None:
    """The caller goes on; the work does, too."""
    go, done = threading.Event(), threading.Event()

    def wait() -> None:
        go.wait()
        done.set()

    with pytest.raises(ClusterUnreachable, match="too late"):
        within(0.05, wait, LATE)
    go.set()
    assert done.wait(5)


def test_few_wait_without_end() -> None:
    """One more than the limit is late at once, and gets its turn when another one came back."""
    go, most = threading.Event(), threading.Semaphore(1)
    with pytest.raises(ClusterUnreachable, match="too late"):
        within(0.05, go.wait, LATE, most=most)
    with pytest.raises(ClusterUnreachable, match="too late"):
        within(60, lambda: None, LATE, most=most)
    go.set()
    assert most.acquire(timeout=5)
    most.release()
    assert within(5, lambda: 7, LATE, most=most) == 7


def test_a_thread_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wants it is told so, and takes nobody's place."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    most = threading.Semaphore(1)
    with pytest.raises(Exhausted, match="the controller retries"):
        within(5, lambda: None, LATE, most=most)
    assert most.acquire(blocking=False)
    with pytest.raises(Exhausted):
        in_background(lambda: None)
