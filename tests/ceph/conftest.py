# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests on real Ceph: a driver on each site, and volumes."""

from collections.abc import Iterator

import pytest
from driver import Driver
from workload import follow, write

from lab import Lab, Volume

MODES = ("snapshot", "journal")


@pytest.fixture(scope="session")
def drivers(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Driver]]:
    """One driver per site, for the whole session."""
    directory = tmp_path_factory.mktemp("drivers")
    running = {name: Driver(site, directory) for name, site in lab.sites.items()}
    yield running
    for driver in running.values():
        driver.stop()


@pytest.fixture
def dr1(drivers: dict[str, Driver]) -> Driver:
    """The driver of the first site."""
    return drivers["dr1"]


@pytest.fixture
def dr2(drivers: dict[str, Driver]) -> Driver:
    """The driver of the second site."""
    return drivers["dr2"]


@pytest.fixture
def volume(lab: Lab) -> Volume:
    """A new volume on dr1, as ceph-csi makes it."""
    return lab.make_volume("dr1", 16 << 20)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """Both ways to mirror."""
    return str(request.param)


@pytest.fixture(scope="session")
def standing(lab: Lab, drivers: dict[str, Driver]) -> dict[str, Volume]:
    """One volume in each mode whose copy on dr2 follows dr1, for tests that leave it so."""
    made = {mode: lab.make_volume("dr1", 16 << 20) for mode in MODES}
    for mode, volume in made.items():
        assert drivers["dr1"].enable(volume.handle, mirroringMode=mode).code == "OK"
    for mode, volume in made.items():
        follow(drivers["dr1"], drivers["dr2"], volume, mode)
    return made


@pytest.fixture
def steady(standing: dict[str, Volume], mode: str) -> Volume:
    """The standing volume of the mode: not to be changed."""
    return standing[mode]


@pytest.fixture
def mirrored(dr1: Driver, dr2: Driver, volume: Volume, mode: str) -> Volume:
    """A volume whose copy on dr2 follows dr1."""
    write(dr1.site, volume, b"first")
    return follow(dr1, dr2, volume, mode)
