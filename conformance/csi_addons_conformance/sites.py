# SPDX-License-Identifier: Apache-2.0
"""One site as a case sees it: its driver's socket, and Ceph itself through an administrator.

What a driver says is never taken for a fact here: facts are read from the images.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from signal import SIGCONT, SIGSTOP
from typing import Any

import rados
import rbd

from csi_addons_conformance.case import SkippedError
from csi_addons_conformance.client import Client
from csi_addons_conformance.driver_process import DriverProcess
from lab import LabError, Site, Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteUnderTest:
    """One site with its driver."""

    site: Site
    client: Client
    started: DriverProcess | None = field(default=None, repr=False)
    """The driver, when the suite itself started it."""

    @property
    def name(self) -> str:
        """The site's name, such as ``dr1``."""
        return self.site.name

    def client_of(self, name: str, caps: Mapping[str, str]) -> Client:
        """Return a client of the same driver that brings a user of its own."""
        words = [word for pair in caps.items() for word in pair]
        key = self.site.ceph("auth", "get-or-create-key", f"client.{name}", *words).strip()
        return Client(self.client.endpoint, {"userID": name, "userKey": key})

    # --- facts, read past the driver -----------------------------------------------------------

    @contextmanager
    def image(
        self, volume: Volume, *, namespace: str = "", writing: bool = False
    ) -> Iterator[rbd.Image]:
        """Open the volume's image."""
        with (
            self.site.ioctx(namespace) as ioctx,
            rbd.Image(ioctx, volume.image, read_only=not writing) as image,
        ):
            yield image

    def exists(self, volume: Volume) -> bool:
        """Tell whether the image is in the pool."""
        with self.site.ioctx() as ioctx:
            return volume.image in rbd.RBD().list(ioctx)

    def image_id(self, volume: Volume) -> str:
        """Return the image's id; empty while it does not exist."""
        try:
            with self.image(volume) as image:
                return str(image.id())
        except rbd.ImageNotFound:
            return ""

    def primary(self, volume: Volume) -> bool:
        """Tell whether the image is primary here."""
        with self.image(volume) as image:
            return bool(image.mirror_image_get_info()["primary"])

    def mirrored(self, volume: Volume) -> bool:
        """Tell whether mirroring of the image is on."""
        with self.image(volume) as image:
            return bool(image.mirror_image_get_info()["state"] == rbd.RBD_MIRROR_IMAGE_ENABLED)

    def mode(self, volume: Volume) -> str:
        """Return how the image is mirrored."""
        with self.image(volume) as image:
            number = image.mirror_image_get_mode()
        return "snapshot" if number == rbd.RBD_MIRROR_IMAGE_MODE_SNAPSHOT else "journal"

    def write(self, volume: Volume, data: bytes, offset: int = 0) -> None:
        """Write as a workload does: open, write, flush, close."""
        with self.image(volume, writing=True) as image:
            image.write(data, offset)
            image.flush()

    def read(self, volume: Volume, length: int, offset: int = 0) -> bytes:
        """Read a part of the image."""
        with self.image(volume) as image:
            return bytes(image.read(offset, length))

    def checksum(self, volume: Volume) -> str:
        """Digest the whole image."""
        with self.image(volume) as image:
            return sha256(image.read(0, image.size())).hexdigest()

    def mirror_status(self, volume: Volume) -> dict[str, Any]:
        """Read the image's mirroring as an administrator sees it; empty before there is any."""
        try:
            text = self.site.rbd(
                "mirror", "image", "status", f"{self.site.pool}/{volume.image}", "--format", "json"
            )
        except LabError:
            return {}
        status: dict[str, Any] = json.loads(text)
        return status

    def state(self, volume: Volume) -> str:
        """Return what this site's rbd-mirror says of the image, such as ``up+replaying``."""
        return str(self.mirror_status(volume).get("state", ""))

    def schedules(self, volume: Volume) -> list[tuple[str, str]]:
        """Return the image's own snapshot schedules: interval, start time or nothing."""
        site = self.site
        listed = site.rbd(
            *("mirror", "snapshot", "schedule", "ls", "--pool", site.pool, "--recursive"),
            *("--format", "json"),
        )
        return [
            (term["interval"], term["start_time"] or "")
            for each in json.loads(listed)
            if each["image"] == volume.image
            for term in each["items"]
        ]

    def remove_schedules(self, volume: Volume) -> None:
        """Remove them, past any driver."""
        for interval, start in self.schedules(volume):
            words = (interval, start) if start else (interval,)
            schedule = ("mirror", "snapshot", "schedule", "rm", "--pool", self.site.pool)
            self.site.rbd(*schedule, "--image", volume.image, *words)

    def take_mirror_snapshot(self, volume: Volume) -> None:
        """Take a mirror snapshot, as a schedule would at this moment."""
        self.site.rbd("mirror", "image", "snapshot", f"{self.site.pool}/{volume.image}")

    def mirror_snapshots(self, volume: Volume) -> list[Mapping[str, Any]]:
        """List the mirror snapshots, oldest first."""
        with self.image(volume) as image:
            return [snap for snap in image.list_snaps() if "mirror" in snap]

    def journal_entry(self, volume: Volume, key: str) -> str | None:
        """Read one entry of the volume's CSI journal; ``None`` when it is not there."""
        with self.site.ioctx() as ioctx, rados.ReadOpCtx() as operation:
            entries, _ = ioctx.get_omap_vals_by_keys(operation, (key,))
            try:
                ioctx.operate_read_op(operation, f"csi.volume.{volume.uuid}")
            except rados.ObjectNotFound:
                return None
            found = dict(entries)
        return found[key].decode() if key in found else None

    @contextmanager
    def extra_pool(self, name: str) -> Iterator[None]:
        """Have one pool of images more for the length of a block.

        The driver's user may not read it, so what is gone is not NOT_FOUND meanwhile: no other
        case may run beside.
        """
        self.site.ceph("osd", "pool", "create", name, "8")
        try:
            self.site.rbd("pool", "init", name)
            yield
        finally:
            self.site.ceph("config", "set", "mon", "mon_allow_pool_delete", "true")
            self.site.ceph("osd", "pool", "rm", name, name, "--yes-i-really-really-mean-it")

    # --- faults --------------------------------------------------------------------------------

    @contextmanager
    def without(self, *daemons: str) -> Iterator[None]:
        """Kill daemons for the length of a block."""
        self.site.kill(*daemons)
        try:
            yield
        finally:
            self.site.start(*daemons)

    @contextmanager
    def frozen(self, *daemons: str) -> Iterator[None]:
        """Freeze daemons for the length of a block: they hold their connections, and are dumb."""
        for daemon in daemons:
            self.site.signal(daemon, SIGSTOP)
        try:
            yield
        finally:
            for daemon in daemons:
                self.site.signal(daemon, SIGCONT)
            for number in ("0" if each == "osd" else "1" for each in daemons if "osd" in each):
                # its fellows would have had it marked down; alone it stays laggy for good
                self.site.ceph("osd", "down", number)

    @property
    def driver(self) -> DriverProcess:
        """The driver's process.

        Raises:
            SkippedError: the suite did not start it.
        """
        if self.started is None:
            raise SkippedError("needs a driver that the suite started itself: --driver COMMAND")
        return self.started

    def restart_driver(self) -> None:
        """Kill the driver as a lost node would, and start it again."""
        self.driver.kill()
        self.driver.start()
