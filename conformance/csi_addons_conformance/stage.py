# SPDX-License-Identifier: Apache-2.0
"""What a case acts on: two sites, and volumes in the state that it starts from."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from csi_addons_conformance.case import expect, poll, settle
from csi_addons_conformance.sites import SiteUnderTest
from lab import CHECK_INTERVAL, Lab, Volume

SIZE = 16 << 20
"""Bytes of a volume, unless a case asks for another size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One run of one case."""

    lab: Lab
    here: SiteUnderTest
    """The site on which volumes are made: dr1."""
    there: SiteUnderTest
    """The other one: dr2."""
    mode: str
    say: Callable[[str], None] = field(default=lambda _: None, repr=False)
    """Notes a fact that a report should show."""

    @property
    def check_interval(self) -> int:
        """rbd-mirror's image state check interval on both sites, in seconds."""
        return CHECK_INTERVAL

    def volume(self, *, size: int = SIZE) -> Volume:
        """Make a volume on dr1 as ceph-csi would."""
        return self.lab.make_volume("dr1", size)

    def enabled(self, **parameters: str) -> Volume:
        """Make a volume whose mirroring is on, and do not wait for its copy."""
        volume = self.volume()
        expect(self.here.client.enable(volume.handle, mirroringMode=self.mode, **parameters), "OK")
        return volume

    def mirrored(self, *, data: bytes = b"", **parameters: str) -> Volume:
        """Make a volume with data whose copy on dr2 is whole and follows."""
        volume = self.volume()
        self.here.write(volume, data or os.urandom(64 << 10))
        expect(self.here.client.enable(volume.handle, mirroringMode=self.mode, **parameters), "OK")
        self.await_copy(volume)
        return volume

    def followed(self, *, size: int = SIZE) -> Volume:
        """Make a volume on dr2 whose copy on dr1 is whole and follows."""
        volume = self.lab.make_volume(self.there.name, size)
        settle(lambda: self.there.client.enable(volume.handle, mirroringMode=self.mode))
        poll(
            lambda: self.here.exists(volume) and self.here.state(volume) == "up+replaying",
            seconds=170,
            what="the copy on dr1 follows",
        )
        return volume

    def await_copy(self, volume: Volume) -> None:
        """Wait until dr2 follows, and until dr1 was told so."""
        poll(
            lambda: self.there.exists(volume) and self.there.state(volume) == "up+replaying",
            seconds=90,
            what="the copy on dr2 follows",
        )
        poll(
            lambda: self.here.client.info(volume.handle).code == "OK",
            seconds=90,
            what="dr1 knows of the copy",
        )

    def move(self, old: SiteUnderTest, new: SiteUnderTest, volume: Volume) -> None:
        """Fail over as planned: the promotion follows the demotion at once, without force."""
        settle(lambda: old.client.demote(volume.handle))
        settle(lambda: new.client.promote(volume.handle))
