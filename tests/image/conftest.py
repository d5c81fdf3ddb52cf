# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the image: built once, unpacked, and started as containers on the two sites."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from container import SOCKET, Container, Image, Told, running
from csi_addons_conformance.case import poll

from lab import CHECK_INTERVAL, Lab
from lab.site import free_port

_SCRIPT: Final = Path(__file__).parents[2] / "scripts" / "image"
_BUILD_BOUND: Final = 1200
METRICS_ADDRESS: Final = "CSI_ADDONS_RBD_METRICS_ADDRESS"
ENVIRONMENT: Final = {
    "CSI_ADDONS_RBD_ENDPOINT": f"unix://{SOCKET}",
    "CSI_ADDONS_RBD_DRIVER_NAME": "rbd.csi.ceph.com",
    "CSI_ADDONS_RBD_STATE_CHECK_INTERVAL": str(CHECK_INTERVAL),
}
"""What every driver is told: there are no arguments, the image's own command serves."""


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image of this tree, or the one that IMAGE_DIR says was unpacked before."""
    if os.geteuid() != 0 or shutil.which("runc") is None:
        missing = "starting containers needs root and runc (apt-get install runc)"
        if os.environ.get("REQUIRE_CEPH"):
            raise RuntimeError(missing)
        pytest.skip(missing)
    directory = Path(os.environ.get("IMAGE_DIR") or tmp_path_factory.mktemp("image"))
    if not os.environ.get("IMAGE_DIR"):
        # its own name, so that a build made by hand stays what it is
        subprocess.run(
            [_SCRIPT, "--unpack", directory, "localhost/csi-addons-rbd:test"],
            check=True,
            timeout=_BUILD_BOUND,
        )
    return Image(directory=directory)


@pytest.fixture(scope="session")
def drivers(
    image: Image, lab: Lab, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Container]]:
    """A container on each site, as the image's user, in a directory of that user's."""
    with ExitStack() as started:
        containers = {}
        for name, site in lab.sites.items():
            directory = tmp_path_factory.mktemp(name)
            make_socket_dir(directory, owner=image.config["User"], mode=0o750)
            address = {METRICS_ADDRESS: f"127.0.0.1:{free_port()}"}
            told = Told(config_dir=site.config_dir, environment=ENVIRONMENT | address)
            containers[name] = started.enter_context(running(image, directory, told))
        for each in containers.values():
            await_ready(each)
        yield containers


def make_socket_dir(directory: Path, *, owner: str, mode: int) -> Path:
    """Make the directory that is mounted for the socket."""
    made = directory / "csi"
    made.mkdir()
    os.chown(made, *(int(number) for number in owner.split(":")))
    made.chmod(mode)
    return made


def await_ready(container: Container) -> None:
    """Wait until the exec probe that a pod would have says yes."""

    def ready() -> bool:
        if container.process.poll() is not None:
            raise ChildProcessError(f"ended with {container.process.returncode}: {container.log}")
        return container.run("csi-addons-rbd", "probe").returncode == 0

    poll(ready, seconds=60, what=f"the driver in {container.name} is ready")
