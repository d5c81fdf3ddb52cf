# SPDX-License-Identifier: Apache-2.0
"""Fixtures of what the conformance suite cannot ask of any driver: this one's own ways."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from csi_addons_conformance.driver_process import DriverProcess
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage

from csi_addons_rbd.ceph.fault_points import VARIABLE
from lab import Lab, Volume

COMMAND: Final = (
    f"{sys.executable} -m csi_addons_rbd serve --endpoint unix://{{socket}} "
    "--driver-name rbd.csi.ceph.com --config-dir {config_dir} --metrics-address 127.0.0.1:{port} "
    "--state-check-interval {check_interval} --log-level debug --log-format json"
)


@pytest.fixture(scope="session")
def stage(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Both sites with a driver each, for the whole session."""
    directory = tmp_path_factory.mktemp("drivers")
    drivers = {name: DriverProcess(COMMAND, site, directory) for name, site in lab.sites.items()}
    here, there = (
        SiteUnderTest(site=lab.sites[name], client=driver.client, started=driver)
        for name, driver in drivers.items()
    )
    yield Stage(lab=lab, here=here, there=there, mode="snapshot")
    for driver in drivers.values():
        driver.stop()


@pytest.fixture
def volume(stage: Stage) -> Volume:
    """A new volume on dr1, as ceph-csi makes it."""
    return stage.volume()


@pytest.fixture
def fault(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have dr1's driver started anew with fault points; the file that arms one."""
    file = tmp_path / "fault"
    monkeypatch.setenv(VARIABLE, str(file))
    stage.here.restart_driver()
    return file


@pytest.fixture(scope="module")
def second(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DriverProcess]:
    """Another driver on dr1."""
    driver = DriverProcess(COMMAND, lab.sites["dr1"], tmp_path_factory.mktemp("second"))
    yield driver
    driver.stop()
