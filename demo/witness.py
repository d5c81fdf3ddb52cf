# SPDX-License-Identifier: Apache-2.0
"""A volume on one site as its administrator sees it, on connections of his own."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import rbd

from lab import LabError, Site, Volume


@dataclass(frozen=True, slots=True)
class Witness:
    """Reads, and plays the workload; knows nothing of the driver."""

    site: Site
    volume: Volume

    @property
    def name(self) -> str:
        """The site's name, as people say it."""
        return self.site.name.upper()

    def write(self, data: bytes, offset: int) -> None:
        """Write as a workload does: open, write, flush, close."""
        with self._open(read_only=False) as image:
            image.write(data, offset)
            image.flush()

    def takes(self, data: bytes, offset: int) -> bool:
        """Try to write; tell whether it was taken, or refused because the image is read-only."""
        try:
            self.write(data, offset)
        except rbd.ReadOnlyImage:
            return False
        return True

    def lock_holders(self) -> str:
        """Name who holds the exclusive lock, without which nobody can write."""
        with self._open() as image:
            listed: Any = image.list_lockers() or {"lockers": ()}
        return ", ".join(f"{client} at {address}" for client, _, address in listed["lockers"])

    def checksum(self) -> str:
        """Digest the whole image; the first 16 digits tell two images apart."""
        with self._open() as image:
            return hashlib.sha256(image.read(0, image.size())).hexdigest()[:16]

    def read(self, length: int, offset: int) -> bytes:
        """Read a part of the image."""
        with self._open() as image:
            return bytes(image.read(offset, length))

    def image_id(self) -> str | None:
        """Return the image's id, ``None`` while there is none."""
        try:
            with self._open() as image:
                return str(image.id())
        except rbd.ImageNotFound:
            return None

    def exists(self) -> bool:
        """Tell whether the pool lists the image."""
        with self.site.ioctx() as ioctx:
            return self.volume.image in rbd.RBD().list(ioctx)

    def state(self) -> str:
        """Return what ``rbd mirror image status`` says, such as ``up+replaying``."""
        path = f"{self.site.pool}/{self.volume.image}"
        try:
            status = self.site.rbd("mirror", "image", "status", path, "--format", "json")
        except LabError:
            return "none"
        return str(json.loads(status).get("state", "none"))

    def says(self, state: str) -> bool:
        """Tell whether the image is there and in this state."""
        return self.exists() and self.state() == state

    def role(self) -> str:
        """Return ``primary``, ``secondary``, ``disabled`` or ``absent``."""
        try:
            with self._open() as image:
                info: Any = image.mirror_image_get_info()
        except rbd.ImageNotFound:
            return "absent"
        if info["state"] != rbd.RBD_MIRROR_IMAGE_ENABLED:
            return "disabled"
        return "primary" if info["primary"] else "secondary"

    def complete(self) -> bool:
        """Tell whether no mirror snapshot is still being copied; none is in journal mode."""
        with self._open() as image:
            return all(
                each["mirror"]["complete"] for each in image.list_snaps() if "mirror" in each
            )

    def mirror_snapshot(self) -> None:
        """Take a mirror snapshot now, rather than wait for the schedule."""
        self.site.rbd("mirror", "image", "snapshot", f"{self.site.pool}/{self.volume.image}")

    @contextmanager
    def _open(self, *, read_only: bool = True) -> Iterator[rbd.Image]:
        with (
            self.site.ioctx() as ioctx,
            rbd.Image(ioctx, self.volume.image, read_only=read_only) as image,
        ):
            yield image
