# SPDX-License-Identifier: Apache-2.0
"""The pages for a failover, followed line by line: they lead where they say, and lose nothing.

What is typed at Kubernetes is acted by the calls that kubernetes-csi-addons makes of it, on two
real Ceph sites; ``rbd`` in the toolbox is run on the site; the application writes without a pause.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
from controller import VolumeReplication
from csi_addons_conformance.case import UnmetError, poll
from csi_addons_conformance.drills.workload import SIZE, Workload
from csi_addons_conformance.driver_process import driver_per_site
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage
from pages import ROOT, Command, blocks, commands
from treatment import ACTED

from lab import Lab

DRIVER = (
    f"{sys.executable} -m csi_addons_rbd serve --endpoint unix://{{socket}} --driver-name rbd.test "
    "--config-dir {config_dir} --state-check-interval {check_interval}"
)
CLASS = {"mirroringMode": "snapshot", "schedulingInterval": "10s"}
PATIENCE = 480
"""Seconds for what a page waits for."""


class Operator:
    """Types what the pages say, for one volume on two sites."""

    def __init__(self, stage: Stage, load: Workload, running: ExitStack) -> None:
        self._load = load
        self._sites = {"dr1": stage.here, "dr2": stage.there}
        wished = {"dr1": "primary", "dr2": "secondary"}
        self.objects = {
            name: running.enter_context(
                VolumeReplication(
                    client=site.client,
                    handle=load.handle,
                    parameters=CLASS,
                    wished=wished[name],
                )
            )
            for name, site in self._sites.items()
        }
        self._running = running
        self._app: AbstractContextManager[Any] | None = None
        self._writes = ""
        """The site on which the application writes; empty for none."""

    def follow(self, name: str, *prompts: str) -> None:
        """Type the commands of a page, or only those with some prompts."""
        for block in blocks(ROOT / "docs" / "how-to" / f"{name}.md"):
            for command in commands(block):
                if not prompts or command.prompt in prompts:
                    self._type(command)

    def _type(self, command: Command) -> None:
        for pattern, method in ACTED.items():
            found = re.search(pattern, command.text)
            if found:
                for site in (command.prompt,) if command.prompt in self._sites else self._sites:
                    getattr(self, f"_{method}")(site, *found.groups())
                return

    def _patch(self, site: str, patch: str) -> None:
        self.objects[site].patch(json.loads(patch)["spec"])

    def _await_state(self, site: str, state: str) -> None:
        each = self.objects[site]
        self._await(lambda: each.state == state, f"{site} is {state}")

    def _await_ready(self, site: str) -> None:
        each = self.objects[site]
        self._await(lambda: not each.degraded, f"{site} is ready")

    def _await_sync(self, site: str) -> None:
        each = self.objects[site]
        before = each.last_sync
        self._await(lambda: each.last_sync > before, f"the copy of {site} is newer")

    def _scale(self, site: str, replicas: str) -> None:
        if int(replicas) and self._writes != site:
            self._app = self._load.writing(self._sites[site])
            self._running.enter_context(self._app).reach(5)
            self._writes = site
        elif not int(replicas) and self._writes == site:
            self.stop_writing()

    def stop_writing(self) -> None:
        """End the application, wherever it runs."""
        if self._app is not None:
            self._app.__exit__(None, None, None)
        self._app, self._writes = None, ""

    def _rbd(self, site: str, arguments: str) -> None:
        if arguments.startswith("mirror image status"):
            # a resync deletes the image for a moment
            volume, each = self._load.volume, self._sites[site]
            self._await(lambda: each.state(volume), f"{site} has a state")
            return
        words = arguments.replace("IMAGE", self._load.volume.image).split()
        saved = self._sites[site].site.home / Path(words[-1]).name
        self._sites[site].site.rbd(*words[:-1], str(saved))
        assert saved.stat().st_size == SIZE
        saved.unlink()

    def await_following(self, site: SiteUnderTest) -> None:
        """Wait until a site copies the other again."""
        volume = self._load.volume
        self._await(
            lambda: site.exists(volume) and site.state(volume) == "up+replaying",
            f"{site.name} follows again",
        )

    def _await(self, look: Callable[[], object], what: str) -> None:
        try:
            poll(look, seconds=PATIENCE, what=what)
        except UnmetError as exc:
            answers = {name: each.answers[-3:] for name, each in self.objects.items()}
            raise UnmetError(f"{exc}; the controllers were answered last: {answers}") from None


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Two sites of its own, since one of them is lost."""
    lab = Lab.up(tmp_path_factory.mktemp("runbooks"))
    try:
        with driver_per_site(DRIVER, lab, tmp_path_factory.mktemp("drivers")) as drivers:
            here, there = (
                SiteUnderTest(site=lab.sites[name], client=each.client, started=each)
                for name, each in drivers.items()
            )
            yield Stage(lab=lab, here=here, there=there, mode="snapshot")
    finally:
        lab.down()


@pytest.mark.timeout(1500)
def test_the_pages_lead_through_the_worst_day_and_home(stage: Stage) -> None:
    """Planned failover and back, site loss, split-brain, failback; each as its page says."""
    load = Workload(stage.volume(size=SIZE))
    dr1, dr2 = stage.here, stage.there
    with ExitStack() as running:
        operator = Operator(stage, load, running)
        operator._await_state("dr1", "Primary")
        stage.await_copy(load.volume)
        operator._scale("dr1", "1")

        operator.follow("planned-failover")
        assert dr2.primary(load.volume)
        assert not dr1.primary(load.volume)

        operator.follow("failback")
        assert dr1.primary(load.volume)
        assert operator.objects["dr1"].forced == operator.objects["dr2"].forced == 0

        operator.stop_writing()
        load.await_whole(dr2)
        dr1.site.kill()
        operator.follow("site-loss", "dr2")
        assert dr2.primary(load.volume)
        assert operator.objects["dr2"].forced == 1

        dr1.site.start()
        operator.follow("site-loss", "dr1")
        operator.follow("split-brain")
        operator.await_following(dr1)

        operator.follow("failback")
        assert dr1.primary(load.volume)
        operator.stop_writing()
        load.require_whole(dr1, "at the end")
