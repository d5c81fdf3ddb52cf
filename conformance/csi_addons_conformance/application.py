# SPDX-License-Identifier: Apache-2.0
"""An application in a process of its own: it has a volume open, and can be frozen or killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import rados
import rbd

from csi_addons_conformance.case import require
from csi_addons_conformance.sites import SiteUnderTest
from lab import Volume


class Application:
    """A process that writes when it is told to."""

    def __init__(self, site: SiteUnderTest, volume: Volume) -> None:
        words = [str(site.site.ceph_conf), site.site.pool, volume.image]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.client = self._answer()
        """The client that it is to the cluster, such as ``client.4100``."""

    def write(self, text: str, offset: int) -> None:
        """Have it write and flush; it must be acknowledged."""
        if self._process.stdin is not None:
            self._process.stdin.write(f"{offset} {text}\n")
            self._process.stdin.flush()
        answer = self._answer()
        require(answer == "written", "an acknowledged write", answer)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def end(self) -> None:
        """Have it close the volume, unless it is dead."""
        self.send(signal.SIGCONT)
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _answer(self) -> str:
        return "" if self._process.stdout is None else self._process.stdout.readline().strip()


@contextmanager
def application(site: SiteUnderTest, volume: Volume) -> Iterator[Application]:
    """Have an application hold a volume for the length of a block."""
    running = Application(site, volume)
    try:
        yield running
    finally:
        running.end()


def _main(conf: str, pool: str, name: str) -> None:
    with (
        rados.Rados(conffile=conf, rados_id="admin") as cluster,
        cluster.open_ioctx(pool) as ioctx,
        rbd.Image(ioctx, name) as image,
    ):
        print(f"client.{cluster.get_instance_id()}", flush=True)
        for line in sys.stdin:
            offset, _, text = line.rstrip("\n").partition(" ")
            try:
                image.write(text.encode(), int(offset))
                image.flush()
            except rbd.Error as exc:
                print(repr(exc), flush=True)
            else:
                print("written", flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
    os._exit(0)
