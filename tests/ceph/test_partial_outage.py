# SPDX-License-Identifier: Apache-2.0
"""A site of two OSDs of which one does not answer: what works on its objects may hang for good."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep

import pytest
from conftest import COMMAND
from csi_addons_conformance.case import expect, poll, settle
from csi_addons_conformance.driver_process import DriverProcess
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import SIZE

from csi_addons_rbd.ceph.fault_points import VARIABLE
from lab import Lab, Volume
from lab.volumes import make_volumes
from tests.driver_insides import metrics

pytestmark = [pytest.mark.ceph, pytest.mark.timeout(300)]
POINT = "before enabling mirroring of"
"""Inside of Ceph's libraries, with the image open."""


@pytest.fixture
def fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name the file that holds a driver at a point."""
    file = tmp_path / "fault"
    monkeypatch.setenv(VARIABLE, str(file))
    return file


@pytest.fixture
def here(tmp_path: Path, fault: Path) -> Iterator[SiteUnderTest]:
    """Dr1 of a lab with two OSDs on each site, with a driver."""
    assert fault.parent == tmp_path
    lab = Lab.up(tmp_path / "lab", osds=2)
    try:
        driver = DriverProcess(COMMAND, lab.sites["dr1"], tmp_path)
        yield SiteUnderTest(site=lab.sites["dr1"], client=driver.client, started=driver)
        driver.stop()
    finally:
        lab.down()


def apart(here: SiteUnderTest) -> Volume:
    """Make a volume whose header lies on another OSD than what is read of every image."""
    other = here.site.osd_of("rbd_mirroring")
    for volume in make_volumes(here.site, SIZE, 16):
        if here.site.osd_of(f"rbd_header.{here.image_id(volume)}") != other:
            return volume
    raise AssertionError("16 headers on one OSD of two")


def test_what_lived_through_the_silence_of_one_osd_is_replaced(
    here: SiteUnderTest, fault: Path
) -> None:
    """The rest of the cluster answered all the time, so the place was never silent."""
    volume = apart(here)
    frozen = here.site.osd_of(f"rbd_header.{here.image_id(volume)}")
    fault.write_text(POINT)
    with ThreadPoolExecutor() as executor:
        hanging = executor.submit(here.client.enable, volume.handle)
        poll(fault.with_name("fault.reached").exists, seconds=30, what="the image is open")
        with here.frozen(frozen):
            sleep(14)
            silent = 'csi_addons_rbd_cluster_silent{cluster="site-dr1"}'
            assert f"{silent} 0.0" in metrics(here.driver)
        lost = hanging.result(timeout=50)
    expect(lost, "UNAVAILABLE", saying=("hung",))
    assert lost.reason == "WORKER_LOST"
    settle(lambda: here.client.enable(volume.handle), seconds=60)
    assert here.mirrored(volume)
