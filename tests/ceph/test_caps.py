# SPDX-License-Identifier: Apache-2.0
"""The page on caps: its smallest set is the lab's, and what fails without each part does."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from csi_addons_conformance.case import poll, settle
from csi_addons_conformance.client import Answer, Client
from csi_addons_conformance.stage import SIZE, Stage

from lab import Volume
from lab.site import DATA_POOL, PROVISIONER, ceph_version, driver_caps

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "caps.md"
CALLS: Final = ("Enable", "Promote", "Demote", "Resync by force", "Disable", "Info, Destination")
INTERVAL: Final = {"schedulingInterval": "5m"}


def rows(columns: int) -> list[list[str]]:
    """Return the page's table rows with so many columns, without the head, without backquotes."""
    found = [
        [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        for line in PAGE.read_text().splitlines()
        if line.startswith("| ") and not line.startswith("| ---")
    ]
    return [cells for cells in found if len(cells) == columns][1:]


SMALLEST: Final = dict(rows(2))
VARIANTS: Final = rows(2 + len(CALLS))
NO_OSD_CAPS: Final = ["osd profile rbd", "nothing"]
RELEASE: Final = int(ceph_version().partition(".")[0])


def variant(instead_of: str, given: str) -> dict[str, str]:
    """Return the caps of a row."""
    if instead_of == "all three":
        return SMALLEST
    daemon = instead_of.partition(" ")[0]
    others = {name: cap for name, cap in SMALLEST.items() if name != daemon}
    return others if given == "nothing" else {**others, daemon: given}


def _said(*answers: Answer) -> str:
    """Return how the page says it: OK, or the reason; all answers must agree."""
    (said,) = {answer.reason or answer.code for answer in answers}
    return said


def _demote(stage: Stage, volume: Volume) -> None:
    if stage.here.primary(volume):
        settle(lambda: stage.here.client.demote(volume.handle))


def _schedule(stage: Stage, volume: Volume) -> str:
    return "" if stage.there.schedules(volume) else ", schedule not in place"


def _planned(stage: Stage, here: Client, there: Client) -> dict[str, str]:
    """A planned failover, with the lab's own user where the other may not."""
    volume = stage.mirrored()
    said = {"Info, Destination": _said(here.info(volume.handle), here.destination(volume.handle))}
    said["Demote"] = _said(here.demote(volume.handle))
    _demote(stage, volume)
    said["Promote"] = _said(there.promote(volume.handle, **INTERVAL))
    if said["Promote"] == "OK":
        said["Promote"] += _schedule(stage, volume)
    if not stage.there.primary(volume):
        settle(lambda: stage.there.client.promote(volume.handle))
    said["Disable"] = _said(there.disable(volume.handle))
    return said


def _split(stage: Stage, here: Client) -> dict[str, str]:
    """A resync by force of a volume in split-brain."""
    volume = stage.mirrored()
    settle(lambda: stage.there.client.promote(volume.handle, force=True))
    _demote(stage, volume)
    poll(
        lambda: stage.here.client.resync(volume.handle).reason == "SPLIT_BRAIN",
        seconds=120,
        what="split-brain on dr1",
        every=2,
    )
    return {"Resync by force": _said(here.resync(volume.handle, force=True))}


def _enable(stage: Stage, here: Client) -> dict[str, str]:
    said = _said(here.enable(stage.volume().handle))
    with_interval = _said(here.enable(stage.volume().handle, **INTERVAL))
    if said != with_interval:
        said = f"{with_interval} with an interval, else {said}"
    return {"Enable": said}


@pytest.fixture(scope="module")
def seen(stage: Stage) -> dict[str, dict[str, str]]:
    """What every row's user was answered: all rows at once, since all of it is waiting."""

    def act(number: int, row: list[str]) -> dict[str, str]:
        caps = variant(*row[:2])
        here, there = (site.client_of(f"row-{number}", caps) for site in (stage.here, stage.there))
        return {
            **_enable(stage, here),
            **_planned(stage, here, there),
            **_split(stage, here),
        }

    with ThreadPoolExecutor(len(VARIANTS)) as executor:
        futures = [executor.submit(act, *each) for each in enumerate(VARIANTS)]
        return {
            " ".join(row[:2]): each.result() for row, each in zip(VARIANTS, futures, strict=True)
        }


def test_the_lab_gives_the_driver_the_smallest_set(stage: Stage) -> None:
    """And the same for one data pool: so all other tests run with it."""
    for site in stage.lab.sites.values():
        told = site.ceph("auth", "get", f"client.{PROVISIONER}")
        assert driver_caps(site.pool) == SMALLEST
        assert dict(re.findall(r'caps (\w+) = "(.*)"', told)) == driver_caps(site.pool, DATA_POOL)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("row", VARIANTS, ids=lambda row: " ".join(row[:2]))
def test_each_call_answers_as_the_table_says(
    row: list[str], seen: dict[str, dict[str, str]]
) -> None:
    """Without a part of the caps, and with all."""
    expected = {
        call: cell.removesuffix(", but see below")
        for call, cell in zip(CALLS, row[2:], strict=True)
    }
    if row[:2] == NO_OSD_CAPS and RELEASE >= 18:
        expected = dict.fromkeys(expected, "CLUSTER_UNREACHABLE")
    assert seen[" ".join(row[:2])] == expected


@pytest.fixture
def dead_daemon(stage: Stage) -> Iterator[Volume]:
    """A copy on dr2 that is locked by an rbd-mirror that was killed."""
    volume = stage.mirrored()
    stage.there.site.kill("rbd-mirror")
    yield volume
    stage.there.site.start("rbd-mirror")


@pytest.mark.timeout(300)
def test_without_the_monitor_s_profile_a_dead_daemon_s_lock_is_never_broken(
    stage: Stage, dead_daemon: Volume
) -> None:
    """The one thing for which the monitor's profile is more than 'allow r'."""
    client = stage.there.client_of("no-fencing", {**SMALLEST, "mon": "allow r"})
    assert _said(client.promote(dead_daemon.handle, force=True)) == "BUSY"
    settle(lambda: stage.there.client.promote(dead_daemon.handle, force=True))


@pytest.fixture
def tenant(stage: Stage) -> Iterator[str]:
    """A volume in a RADOS namespace of its own, which a cluster id of dr1 leads to."""
    site = stage.here.site
    for each in (site, stage.there.site):
        each.rbd("namespace", "create", f"{each.pool}/tenant")
        each.rbd("mirror", "pool", "enable", f"{each.pool}/tenant", "image")
    volume = stage.lab.make_volume("dr1", SIZE, namespace="tenant")
    file = site.config_dir / "config.json"
    before = file.read_text()
    entry = {
        "clusterID": "tenant",
        "monitors": list(site.monitors),
        "rbd": {"radosNamespace": "tenant"},
    }
    file.write_text(json.dumps([*json.loads(before), entry]))
    yield f"0001-0006-tenant-{site.pool_id:016x}-{volume.uuid}"
    file.write_text(before)


def test_a_tenant_s_namespace_is_enough(stage: Stage, tenant: str, volume: Volume) -> None:
    """With caps for one namespace its volumes are replicated, and no other of the pool."""
    caps = {
        daemon: cap if daemon == "mon" else f"{cap} namespace=tenant"
        for daemon, cap in SMALLEST.items()
    }
    client = stage.here.client_of("tenant", caps)
    assert _said(client.enable(tenant, **INTERVAL)) == "OK"
    settle(lambda: client.demote(tenant))  # once the peer follows: it is the pool's
    assert _said(client.destination(tenant)) == "OK"
    assert _said(client.promote(tenant, force=True, **INTERVAL)) == "OK"
    assert _said(client.disable(tenant)) == "OK"
    assert _said(client.enable(volume.handle)) == "PERMISSION_DENIED"


def test_the_page_s_commands_work(stage: Stage) -> None:
    """As the administrator types them."""
    site = stage.here.site
    typed = re.findall(r"^ceph\$ (.*)$", PAGE.read_text(), re.MULTILINE)
    assert typed
    for line in typed:
        done = subprocess.run(
            shlex.split(line),
            env={**os.environ, "CEPH_CONF": str(site.ceph_conf)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
