# SPDX-License-Identifier: Apache-2.0
"""What happens to a volume in these tests, outside the driver and through it."""

from hashlib import sha256

import rbd
from driver import Driver, mirror_status, poll, settled

from lab import Site, Volume


def follow(primary: Driver, secondary: Driver, volume: Volume, mode: str) -> Volume:
    """Mirror a volume and wait until the other site has a whole copy and says so."""
    assert primary.enable(volume.handle, mirroringMode=mode).code == "OK"
    poll(lambda: _follows(secondary.site, volume), 90)
    return volume


def _follows(site: Site, volume: Volume) -> bool:
    if volume.image not in site.rbd("ls", site.pool).split():
        return False
    return bool(mirror_status(site, volume.image).get("state") == "up+replaying")


def write(site: Site, volume: Volume, data: bytes, offset: int = 0) -> None:
    """Write as a workload would: open, write, flush, close."""
    with site.ioctx() as ioctx, rbd.Image(ioctx, volume.image) as image:
        image.write(data, offset)
        image.flush()


def read(site: Site, volume: Volume, length: int, offset: int = 0) -> bytes:
    """Read a part of the image."""
    with site.ioctx() as ioctx, rbd.Image(ioctx, volume.image, read_only=True) as image:
        return bytes(image.read(offset, length))


def checksum(site: Site, volume: Volume) -> str:
    """Digest the whole image."""
    with site.ioctx() as ioctx, rbd.Image(ioctx, volume.image, read_only=True) as image:
        return sha256(image.read(0, image.size())).hexdigest()


def image_id(site: Site, volume: Volume) -> str:
    """Return the image's id."""
    with site.ioctx() as ioctx, rbd.Image(ioctx, volume.image, read_only=True) as image:
        return str(image.id())


def move(old: Driver, new: Driver, volume: Volume) -> None:
    """Fail over as planned: the promotion follows the demotion at once, without force."""
    settled(lambda: old.demote(volume.handle))
    settled(lambda: new.promote(volume.handle))
