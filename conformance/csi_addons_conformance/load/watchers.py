# SPDX-License-Identifier: Apache-2.0
"""Watchers of images, and whose they are: every client that has an image open watches it.

A cluster numbers its clients as they come. rbd-mirror was there before this connection was made,
and drivers connect at their first call: so whoever has a higher number is a driver.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import rados
import rbd

from lab import Site, Volume


class Watchers:
    """One site, through a connection of the suite's own that was made before any call."""

    def __init__(self, cluster: rados.Rados, ioctx: rados.Ioctx) -> None:
        self._ioctx = ioctx
        self._own = cluster.get_instance_id()

    @classmethod
    @contextmanager
    def of(cls, site: Site) -> "Iterator[Watchers]":
        """Connect for the length of a block."""
        with site.connect() as cluster, cluster.open_ioctx(site.pool) as ioctx:
            yield cls(cluster, ioctx)

    def count(self, volumes: Sequence[Volume]) -> int:
        """Count the watchers of all these images that belong to a driver."""
        return sum(self._of(volume) for volume in volumes)

    @contextmanager
    def writing(self, volumes: Sequence[Volume]) -> Iterator[None]:
        """Hold images open and locked, as writers do, for the length of a block."""
        with ExitStack() as opened:
            for volume in volumes:
                image = opened.enter_context(rbd.Image(self._ioctx, volume.image))
                image.write(b"x", 0)
                image.flush()
            yield

    def _of(self, volume: Volume) -> int:
        try:
            with rbd.Image(self._ioctx, volume.image, read_only=True) as image:
                return sum(watcher["id"] > self._own for watcher in image.watchers_list())
        except rbd.Error:
            return 0  # being deleted or made anew
