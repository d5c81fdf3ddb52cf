# SPDX-License-Identifier: Apache-2.0
"""An application that writes to one volume, and knows every byte that was acknowledged."""

import os
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from typing import Final

import rbd

from csi_addons_conformance.case import UnmetError, poll, require
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage
from lab import Volume

SIZE: Final = 2 << 20
"""Bytes of a volume: each of hundreds of mirror snapshots costs as much of the lab's memory."""
BLOCK: Final = 4096
_STATES: Final = {
    rbd.RBD_SNAP_MIRROR_STATE_PRIMARY: "primary",
    rbd.RBD_SNAP_MIRROR_STATE_PRIMARY_DEMOTED: "primary demoted",
    rbd.RBD_SNAP_MIRROR_STATE_NON_PRIMARY: "non-primary",
    rbd.RBD_SNAP_MIRROR_STATE_NON_PRIMARY_DEMOTED: "non-primary demoted",
}
_PAUSE: Final = 0.005
_WRITABLE: Final = 90
"""Seconds within which a promoted image must take its first write."""


class Workload:
    """One volume, and what must be on it."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.acknowledged = 0
        """Writes that librbd acknowledged."""
        self.read_only = 0
        """First writes that librbd refused, since the lock was not yet free."""
        self._content = bytearray(SIZE)
        self._newest = 0

    @property
    def handle(self) -> str:
        """The volume's handle."""
        return self.volume.handle

    @property
    def checksum(self) -> str:
        """The digest that the whole image must have."""
        return sha256(self._content).hexdigest()

    def missing(self, site: SiteUnderTest) -> int:
        """Count the acknowledged blocks that a site's image does not hold."""
        with site.image(self.volume) as image:
            found = bytes(image.read(0, image.size()))
        if sha256(found).hexdigest() == self.checksum:
            return 0
        require(len(found) == len(self._content), f"{len(self._content)} bytes", len(found))
        starts = range(0, len(found), BLOCK)
        return sum(
            found[start : start + BLOCK] != self._content[start : start + BLOCK] for start in starts
        )

    def require_whole(self, site: SiteUnderTest, when: str) -> None:
        """Check the whole image on a site against what was acknowledged."""
        missing = self.missing(site)
        if missing:
            raise UnmetError(
                f"expected every acknowledged byte on {site.name} {when}; came {missing} blocks of "
                f"{self.volume.image} that differ, the newest write "
                f"{'among them' if self._lacks_newest(site) else 'not among them'}, after "
                f"{self.acknowledged} writes; mirror snapshots by id: {self._history(site)}"
            )

    def await_whole(self, site: SiteUnderTest, *, seconds: float = 120) -> None:
        """Wait until a copy holds every acknowledged byte."""
        poll(
            lambda: not self.missing(site),
            seconds=seconds,
            what=f"every acknowledged byte is on {site.name}",
        )

    def write(self, site: SiteUnderTest, writes: int) -> None:
        """Open, make some writes, close."""
        with self.writing(site) as written:
            written.reach(writes)

    @contextmanager
    def writing(self, site: SiteUnderTest, *, pause: float = _PAUSE) -> Iterator["Written"]:
        """Write without end for the length of a block; the image is closed after it."""
        written = Written()
        with ThreadPoolExecutor(1) as executor:
            writer = executor.submit(self._write_until_told, site, written, pause)
            writer.add_done_callback(lambda _: written.ended.set())
            try:
                yield written
            finally:
                written.stop.set()
                # a failure of the writer is why the block failed, if it did
                writer.result()

    def write_block(self, image: rbd.Image) -> None:
        """Write one block somewhere, and take note of it once it is acknowledged."""
        start = secrets.randbelow(len(self._content) // BLOCK) * BLOCK
        data = os.urandom(BLOCK)
        image.write(data, start)
        image.flush()
        self._content[start : start + BLOCK] = data
        self.acknowledged += 1
        self._newest = start

    def _write_until_told(self, site: SiteUnderTest, written: "Written", pause: float) -> None:
        with site.image(self.volume, writing=True) as image:
            try:
                self._first_write(image)
                while not written.stop.wait(pause):
                    self.write_block(image)
                    written.count += 1
            except rbd.Error as exc:
                raise UnmetError(
                    f"expected that the application can write to {self.volume.image} on "
                    f"{site.name}; came {type(exc).__name__}: {exc} after {written.count} writes"
                ) from exc

    def _first_write(self, image: rbd.Image) -> None:
        """Write as soon as rbd-mirror has let go of the lock."""
        deadline = time.monotonic() + _WRITABLE
        while True:
            try:
                return self.write_block(image)
            except rbd.ReadOnlyImage:
                self.read_only += 1
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    def _history(self, site: SiteUnderTest) -> str:
        snaps = site.mirror_snapshots(self.volume)
        return ", ".join(f"{snap['id']} {_STATES[snap['mirror']['state']]}" for snap in snaps)

    def _lacks_newest(self, site: SiteUnderTest) -> bool:
        found = site.read(self.volume, BLOCK, self._newest)
        return found != self._content[self._newest : self._newest + BLOCK]


class Written:
    """How far a writer has come in one opening of the image."""

    def __init__(self) -> None:
        self.count = 0
        self.stop = threading.Event()
        self.ended = threading.Event()
        """Set by the end of the writer, also by its failure."""

    def reach(self, writes: int) -> None:
        """Wait until so many more writes are acknowledged, or the writer failed."""
        goal = self.count + writes
        poll(
            lambda: self.count >= goal or self.ended.is_set(),
            seconds=120,
            what=f"{writes} writes are acknowledged",
            every=0.02,
        )


def start(stage: Stage, volumes: int, **parameters: str) -> list[Workload]:
    """Make volumes side by side, each written to and with a copy that follows."""

    def make(_: int) -> Workload:
        load = Workload(stage.volume(size=SIZE))
        load.write(stage.here, 16)
        answer = stage.here.client.enable(load.handle, mirroringMode=stage.mode, **parameters)
        require(answer.code == "OK", "OK", answer)
        stage.await_copy(load.volume)
        return load

    with ThreadPoolExecutor(volumes) as executor:
        return list(executor.map(make, range(volumes)))


def carry_over(stage: Stage, load: Workload, old: SiteUnderTest, new: SiteUnderTest) -> None:
    """Have a live primary's bytes on the other site; snapshot mode needs a snapshot for that."""
    if stage.mode == "snapshot":
        old.take_mirror_snapshot(load.volume)
    load.await_whole(new)
