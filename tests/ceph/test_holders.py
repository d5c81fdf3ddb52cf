# SPDX-License-Identifier: Apache-2.0
"""A client that comes in the middle of a demotion."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import rbd
from csi_addons_conformance.application import Application, application
from csi_addons_conformance.case import UnmetError, expect, settle
from csi_addons_conformance.client import Answer
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import SIZE, Stage
from test_process import BEFORE_DEMOTING, await_step

from lab import Volume

pytestmark = pytest.mark.safety
BLOCK: Final = 4096
_PAUSE: Final = 0.005
MODES: Final = {
    "without-lock": "snapshot",
    "snapshot": "snapshot",
    "journal": "journal",
    "slow-client": "snapshot",
}
_SLOW: Final = 0.2
"""Seconds that each message to a slow client takes at most; it takes the lock within 2 s."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", MODES)
def test_the_demotion_is_taken_back(stage: Stage, fault: Path, tmp_path: Path, kind: str) -> None:
    """The client is named each time, and every write of it that was acknowledged arrives.

    Where librbd took the lock from it, and it did not get it back, nothing is to be taken back. One
    that is slow gets it back after the demotion, and then writes what it had queued.
    """
    stage = replace(stage, mode=MODES[kind])
    volume = mirrored(stage, without_lock=kind == "without-lock")
    demote = stage.here.client.demote
    site = slow(stage.here, tmp_path) if kind == "slow-client" else stage.here
    with held_in_demotion(stage, volume, fault) as go, application(site, volume) as writer:
        writer.write(block(0), 0)
        answer, acknowledged = go(writer)
        assert stage.here.primary(volume) == (answer.code != "OK")
        if answer.code != "OK" or kind == "without-lock":
            expect(answer, "FAILED_PRECONDITION", saying=(writer.client, "taken back"))
            again = stage.here.client.call("DemoteVolume", volume.handle, timeout=12)
            expect(again, "FAILED_PRECONDITION", saying=(writer.client, "held by"))
    settle(lambda: demote(volume.handle))
    settle(lambda: stage.there.client.promote(volume.handle))
    for number in acknowledged:
        assert stage.there.read(volume, 8, number * BLOCK) == block(number).encode()


@pytest.mark.timeout(120)
def test_a_client_that_has_the_image_open_is_named_in_the_log(stage: Stage) -> None:
    """It keeps nothing from being demoted; librbd takes its first write even after that."""
    stage = replace(stage, mode="snapshot")
    volume = mirrored(stage)
    with application(stage.here, volume) as idle:
        settle(lambda: stage.here.client.demote(volume.handle))
    log = stage.here.driver.log.read_text().splitlines()
    (line,) = [each for each in log if "clients have the demoted image open" in each]
    assert json.loads(line)["clients"] == idle.client


@pytest.mark.timeout(300)
def test_what_could_not_be_taken_back_is_said_each_time(stage: Stage, fault: Path) -> None:
    """A peer is primary: the image stays secondary, and no Demote is OK until it is promoted."""
    stage = replace(stage, mode="snapshot")
    volume = mirrored(stage)
    settle(lambda: stage.there.client.promote(volume.handle, force=True))
    with held_in_demotion(stage, volume, fault) as go, application(stage.here, volume) as writer:
        writer.write(block(0), 0)
        answer, _ = go(writer)
        expect(answer, "FAILED_PRECONDITION", saying=(writer.client, "a peer is primary"))
    assert not stage.here.primary(volume)
    stage.here.restart_driver()
    again = stage.here.client.demote(volume.handle)
    expect(again, "FAILED_PRECONDITION", saying=(writer.client,), within=5)
    settle(lambda: stage.here.client.promote(volume.handle, force=True))
    settle(lambda: stage.here.client.demote(volume.handle))


def slow(site: SiteUnderTest, directory: Path) -> SiteUnderTest:
    """Lend a site to which the way is long."""
    delays = {"type": "osd client", "probability": "1", "max": _SLOW}
    lines = [f"ms_inject_delay_{key} = {value}" for key, value in delays.items()]
    conf = directory / "ceph.conf"
    conf.write_text("\n".join([site.site.ceph_conf.read_text(), "[client]", *lines, ""]))
    return replace(site, site=replace(site.site, ceph_conf=conf))


def mirrored(stage: Stage, *, without_lock: bool = False) -> Volume:
    """Make a volume whose copy follows, with or without exclusive-lock."""
    if not without_lock:
        return stage.mirrored()
    volume = stage.lab.make_volume("dr1", SIZE, features=rbd.RBD_FEATURE_LAYERING)
    expect(stage.here.client.enable(volume.handle), "OK")
    stage.await_copy(volume)
    assert "the image lacks exclusive-lock" in stage.here.driver.log.read_text()
    return volume


@contextmanager
def held_in_demotion(
    stage: Stage, volume: Volume, fault: Path
) -> Iterator[Callable[[Application], tuple[Answer, list[int]]]]:
    """Hold a Demote right before librbd demotes; lend what lets it go on under a writer."""
    fault.write_text(BEFORE_DEMOTING)
    with ThreadPoolExecutor() as executor:
        answer = executor.submit(stage.here.client.demote, volume.handle)
        await_step(fault)

        def go(writer: Application) -> tuple[Answer, list[int]]:
            fault.with_name(f"{fault.name}.go").touch()
            acknowledged = [0]
            while not answer.done():
                number = acknowledged[-1] + 1
                # refused while the image is no primary; a writer that goes on gets the lock again
                with suppress(UnmetError):
                    if number < SIZE // BLOCK:
                        writer.write(block(number), number * BLOCK)
                        acknowledged.append(number)
                time.sleep(_PAUSE)
            return answer.result(), acknowledged

        yield go


def block(number: int) -> str:
    """Return what is written at a place."""
    return f"{number:8d}"
