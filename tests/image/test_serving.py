# SPDX-License-Identifier: Apache-2.0
"""The image at work: read-only root, no capabilities, two real sites."""

import stat
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from conftest import ENVIRONMENT, METRICS_ADDRESS, await_ready, make_socket_dir
from container import Container, Image, Told, running
from csi_addons_conformance.client import Client

from lab import Lab

_SMOKE = ("identity", "enable/mirrors", "promote/planned")
_CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


@pytest.mark.timeout(600)
def test_the_smoke_cases_of_the_contract_pass(
    drivers: dict[str, Container], lab: Lab, tmp_path: Path
) -> None:
    """Identity, Enable and a planned failover in both modes, asked from outside."""
    report = tmp_path / "junit.xml"
    command = [sys.executable, "-m", "csi_addons_conformance", "--strict"]
    command += ["--lab", str(lab.directory / "lab.json"), "--junit", str(report)]
    for name, container in drivers.items():
        command += ["--site", f"{name}={container.endpoint}"]
    for word in _SMOKE:
        command += ["--select", word]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stdout + done.stderr
    ran = [each.get("name", "") for each in ET.parse(report).iter("testcase") if not len(each)]
    for word in _SMOKE:
        assert any(name.startswith(word) for name in ran), f"no case of {word} ran: {ran}"


def test_it_is_as_locked_up_as_it_claims(drivers: dict[str, Container]) -> None:
    """Seen from inside: who it is, what it may do, and that nothing can be written."""
    inside = drivers["dr1"]
    status = inside.run("cat", "/proc/1/status").stdout
    told_of = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert told_of["Uid"].split() == ["10001"] * 4
    assert told_of["Gid"].split() == ["10001"] * 4
    assert {told_of[each] for each in _CAPABILITIES} == {"0" * 16}
    assert told_of["NoNewPrivs"] == "1"
    for place in ("/tmp", "/var/log", "/opt/csi-addons-rbd"):
        written = inside.run("touch", f"{place}/something")
        assert "Read-only file system" in written.stderr


def test_only_the_socket_and_its_lock_are_written(drivers: dict[str, Container]) -> None:
    """The one writable directory holds nothing else; the socket is its group's, too."""
    for container in drivers.values():
        made = {path.name for path in container.socket.parent.iterdir()}
        assert made == {"csi-addons.sock", "csi-addons.sock.lock"}
        assert stat.S_IMODE(container.socket.stat().st_mode) == 0o660


def test_metrics_are_served(drivers: dict[str, Container]) -> None:
    """The address of the endpoint comes through the environment, too."""
    environment = drivers["dr1"].run("env").stdout.splitlines()
    (address,) = (each.partition("=")[2] for each in environment if METRICS_ADDRESS in each)
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as page:
        assert b"csi_addons_rbd" in page.read()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A directory for the socket, and who is to serve there."""

    owner: str
    mode: int
    user: str = ""
    groups: tuple[int, ...] = ()


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(Place(owner="0:10001", mode=0o2770, groups=(10001,)), id="fsgroup"),
        pytest.param(Place(owner="0:0", mode=0o750, user="0:0"), id="root-without-capabilities"),
    ],
)
def test_where_it_can_serve(image: Image, lab: Lab, tmp_path: Path, place: Place) -> None:
    """In an emptyDir by fsGroup, in a plugin directory as root; SIGTERM ends it in good order."""
    directory = make_socket_dir(tmp_path, owner=place.owner, mode=place.mode)
    site = lab.sites["dr1"]
    told = Told(
        config_dir=site.config_dir,
        environment=ENVIRONMENT,
        user=place.user,
        groups=place.groups,
    )
    with running(image, tmp_path, told) as container:
        await_ready(container)
        assert Client(container.endpoint, site.secrets).probe().code == "OK"
        assert container.socket.stat().st_gid == directory.stat().st_gid
        assert container.stop() == 0, container.log
    assert not container.socket.exists()


@pytest.fixture
def told(lab: Lab) -> Told:
    """What a driver of dr1 is told."""
    return Told(config_dir=lab.sites["dr1"].config_dir, environment=ENVIRONMENT)


@pytest.mark.parametrize("mode", [0o755, 0o750])
def test_where_it_cannot_serve(image: Image, told: Told, tmp_path: Path, mode: int) -> None:
    """A directory of root's is none for the image's user: it says so and ends."""
    make_socket_dir(tmp_path, owner="0:0", mode=mode)
    with running(image, tmp_path, told) as container:
        assert container.wait() == 1
    assert "cannot start" in container.log
    assert "/csi/csi-addons.sock.lock cannot be made: Permission denied" in container.log


def test_a_lock_left_by_root_is_in_the_way(image: Image, told: Told, tmp_path: Path) -> None:
    """Who changes the user of a driver has to remove what the old one left."""
    place = make_socket_dir(tmp_path, owner="0:10001", mode=0o2770)
    (place / "csi-addons.sock.lock").touch(mode=0o600)
    with running(image, tmp_path, replace(told, groups=(10001,))) as container:
        assert container.wait() == 1
    assert "/csi/csi-addons.sock.lock cannot be made: Permission denied" in container.log


def test_the_bare_command_says_what_is_missing(image: Image, told: Told, tmp_path: Path) -> None:
    """Told nothing, it ends with the usage error."""
    make_socket_dir(tmp_path, owner=image.config["User"], mode=0o750)
    with running(image, tmp_path, replace(told, environment={})) as container:
        assert container.wait() == 2
    assert "--endpoint" in container.log
