# SPDX-License-Identifier: Apache-2.0
"""A driver that the suite starts itself, from a command line with places to fill in."""

import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from csi_addons_conformance.case import poll
from csi_addons_conformance.client import Client
from lab import CHECK_INTERVAL, Lab, Site
from lab.site import free_port

_STOP_BOUND: Final = 30
PLACES: Final = "{socket}, {config_dir}, {check_interval}, {port}"
"""What a command line may hold: the socket to serve on, the directory of config.json and
cluster-mapping.json, rbd-mirror's image state check interval in seconds, a free TCP port."""


class DriverProcess:
    """One driver, which can be killed and started again."""

    def __init__(self, command: str, site: Site, directory: Path) -> None:
        socket = directory / site.name / "csi-addons.sock"
        socket.parent.mkdir()
        self.endpoint = f"unix://{socket}"
        self.log = directory / f"{site.name}-driver.log"
        self.port = free_port()
        self._argv = shlex.split(
            command.format(
                socket=socket,
                config_dir=site.config_dir,
                check_interval=CHECK_INTERVAL,
                port=self.port,
            )
        )
        self.client = Client(self.endpoint, site.secrets)
        self.start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def start(self) -> None:
        """Start the process and wait until it is ready."""
        self.spawn()
        poll(self._ready, seconds=30, what=f"the driver is ready; its log is {self.log}")

    def spawn(self) -> None:
        """Start the process."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @contextmanager
    def with_flags(self, *flags: str) -> Iterator[None]:
        """Have it run with more flags for the length of a block; it is started anew for both."""
        argv = self._argv
        try:
            self._restart([*argv, *flags])
            yield
        finally:
            self._restart(argv)

    def _restart(self, argv: list[str]) -> None:
        self.kill()
        self._argv = argv
        self.start()

    def kill(self) -> None:
        """End the process as the kernel would when it is out of memory."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """End the process by SIGTERM, by SIGKILL if it does not; return its exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(_STOP_BOUND)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.returncode

    def _ready(self) -> bool:
        if self._process.poll() is not None:
            end = self.log.read_text(errors="replace")[-2000:]
            raise ChildProcessError(f"the driver ended with {self._process.returncode}: {end}")
        answer = self.client.probe(timeout=2)
        return answer.code == "OK" and answer.response.ready.value


@contextmanager
def driver_per_site(
    command: str, lab: Lab, directory: Path
) -> Iterator[Mapping[str, DriverProcess]]:
    """Run a driver on each site of a lab for the length of a block."""
    with ExitStack() as running:
        drivers = {}
        for name, site in lab.sites.items():
            drivers[name] = DriverProcess(command, site, directory)
            running.callback(drivers[name].stop)
        yield drivers
