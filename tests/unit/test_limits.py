# SPDX-License-Identifier: Apache-2.0
"""What may wait without end is waited for no longer than agreed."""

import threading

import pytest

from csi_addons_rbd.ceph.limits import within
from csi_addons_rbd.replication.errors import ClusterUnreachable, PermissionDenied

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
