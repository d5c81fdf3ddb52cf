# SPDX-License-Identifier: Apache-2.0
"""Connecting with the real librados, to addresses at which no monitor answers."""

import base64
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from csi_addons_rbd.ceph.dialing import Dialer, Target
from csi_addons_rbd.ceph.lookups import Lookups
from csi_addons_rbd.ceph.release import release
from csi_addons_rbd.replication.errors import ClusterUnreachable, DriverError, Unauthenticated

OPTIONS = {"log_to_stderr": "false", "err_to_stderr": "false", "log_file": ""}
NOBODY = "v2:127.0.0.1:1"


def key(kind: int, length: int) -> str:
    """Return a well-formed key of nobody."""
    head = struct.pack("<HIIH", kind, 1_700_000_000, 0, length)
    return base64.b64encode(head + bytes(range(length))).decode()


def failure(seconds: float, *monitors: str, secret: str = key(1, 16)) -> DriverError:
    """Return what comes of connecting, which must not take longer than it may."""
    target = Target(cluster="here", monitors=monitors, user="csi", key=secret)
    began = time.monotonic()
    with pytest.raises(DriverError) as caught:
        Dialer(seconds).dial(target, OPTIONS)
    assert time.monotonic() - began < seconds + 1.5
    assert secret not in caught.value.message
    assert "cluster here" in caught.value.message
    return caught.value


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of somebody who accepts and never answers, as a load balancer does."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("form", ["{}", "v1:{}", "v2:{}", "[v2:{0},v1:{0}]"])
def test_an_address_that_accepts_and_never_answers(silent: int, form: str) -> None:
    """It takes as long as a connect may, whatever it is thought to speak."""
    assert isinstance(failure(2, form.format(f"127.0.0.1:{silent}")), ClusterUnreachable)


HAZARDS = [
    ["v1:127.0.0.1:4", "[v2:127.0.0.1:3,v1:127.0.0.1:4]"],
    ["127.0.0.1", "[v2:127.0.0.1:3300,v1:127.0.0.1:6789]"],
    ["[v2:127.0.0.1:3,v1:127.0.0.1:4]", "[v2:127.0.0.1:3,v1:127.0.0.1:4]"],
    ["[v2:127.0.0.1:3,v1:127.0.0.1:4],[v2:127.0.0.1:5,v1:127.0.0.1:4]"],
    ["[v2:[::1]:3,v1:[::1]:4]", "[v2:[0::1]:3/0,v1:[::1]:5/0]"],
    ["v2:localhost:3", "[v2:127.0.0.1:3,v1:127.0.0.1:4]", "[v2:[::1]:3,v1:[::1]:4]"],
    ["[v2:localhost:3,v1:localhost:4]", "[v2:127.0.0.1:3,v1:127.0.0.1:4]", "localhost:4"],
]
_CHILD = """
import sys
from csi_addons_rbd.ceph.dialing import Dialer, Target
from csi_addons_rbd.replication.errors import ClusterUnreachable
target = Target(cluster="here", monitors=tuple(sys.argv[3:]), user="csi", key=sys.argv[2])
try:
    Dialer(1).dial(target, {"log_to_stderr": "false", "err_to_stderr": "false", "log_file": ""})
except ClusterUnreachable as exc:
    print("timed out" if "ETIMEDOUT" in exc.message else exc.message)
"""


@pytest.mark.parametrize("monitors", HAZARDS)
def test_librados_survives_an_address_that_stands_twice(monitors: list[str]) -> None:
    """In a process of its own, since it would not be the only one to die."""
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, "--", key(1, 16), *monitors],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (child.returncode, child.stdout) == (0, "timed out\n")


# --- names --------------------------------------------------------------------------------


def test_a_name_without_an_address() -> None:
    """It costs the connect only when there is nothing else, and is named then."""
    alone = failure(2, "no-such.invalid:6789", "v2:nor-this.invalid")
    assert isinstance(alone, ClusterUnreachable)
    assert "no-such.invalid: " in alone.message
    assert "nor-this.invalid: " in alone.message
    assert "ETIMEDOUT" in failure(1, "no-such.invalid:6789", NOBODY).message


def test_a_resolver_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a part of the time of a connect, and one thread for each name, at most 64."""
    forever = threading.Event()
    asked: list[str] = []

    def hang(name: str, *_: object, **__: object) -> list[object]:
        asked.append(name)
        forever.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    target = Target(cluster="here", monitors=("mon:6789",), user="csi", key=key(1, 16))
    dialer = Dialer(1)
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(ClusterUnreachable, match="mon: no answer in time"):
            dialer.dial(target, OPTIONS)
        assert time.monotonic() - began < 1.5
    assert asked == ["mon"]
    looked = Lookups().look_up([f"mon-{number}" for number in range(100)], 0.2)
    assert len(asked) == 1 + 64
    assert len(looked.failed) == 100
    forever.set()


# --- keys ---------------------------------------------------------------------------------


def test_a_key_of_a_newer_type() -> None:
    """Where librados cannot read it, the error says which type it is, and who cannot."""
    found = failure(1, NOBODY, secret=key(2, 32))
    if int(release().partition(".")[0]) >= 20:
        assert isinstance(found, ClusterUnreachable)
        return
    assert isinstance(found, Unauthenticated)
    assert "type 2 (aes256k)" in found.message
    assert release() in found.message


def test_a_key_that_librados_cannot_read() -> None:
    """It is the secret that is wrong, not the cluster that is ill."""
    if int(release().partition(".")[0]) >= 20:
        pytest.skip("this release takes such a key for none at all")
    spoilt = base64.b64encode(struct.pack("<HIIH", 1, 0, 0, 40) + bytes(16)).decode()
    found = failure(1, NOBODY, secret=spoilt)
    assert isinstance(found, Unauthenticated)
    assert "cannot read userKey" in found.message
