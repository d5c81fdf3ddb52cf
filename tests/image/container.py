# SPDX-License-Identifier: Apache-2.0
"""A container of the image, as a kubelet's runtime would start it with the strictest settings.

runc makes it: read-only root, no capability, no new privileges, its own processes and mounts, no
writable directory but the socket's. Only the network is the machine's, for the lab is there.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SOCKET_DIR: Final = "/csi"
SOCKET: Final = f"{SOCKET_DIR}/csi-addons.sock"
_BOUND: Final = 60
_PRIVATE: Final = ("pid", "ipc", "uts", "mount")
_DEVICES: Final = (
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {
        "destination": "/dev",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "strictatime", "mode=755", "size=64k"],
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that ``scripts/image --unpack`` wrote into a directory."""

    directory: Path

    @property
    def root(self) -> Path:
        """The image's root directory."""
        return self.directory / "rootfs"

    @property
    def config(self) -> dict[str, Any]:
        """User, Env, Entrypoint, Cmd and Labels, as OCI names them."""
        found: dict[str, Any] = json.loads((self.directory / "image.json").read_text())
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a pod would say beside the image's name."""

    config_dir: Path
    """Mounted where the driver looks for its configuration."""
    environment: Mapping[str, str]
    """Beside the image's own: all that the driver is told."""
    user: str = ""
    """UID:GID, if not the image's."""
    groups: tuple[int, ...] = ()
    """Supplementary groups, such as a pod's fsGroup."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container that was started."""

    name: str
    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def endpoint(self) -> str:
        """The driver's socket as the machine sees it."""
        return f"unix://{self.socket}"

    @property
    def socket(self) -> Path:
        """The driver's socket as the machine sees it."""
        return self.directory / "csi" / Path(SOCKET).name

    @property
    def log(self) -> str:
        """All that was printed."""
        return (self.directory / "log").read_text(errors="replace")

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as an exec probe does."""
        return _runc(self.directory, "exec", self.name, *argv)

    def stop(self) -> int:
        """Send SIGTERM to the driver, the first process in there; return its exit code."""
        _runc(self.directory, "kill", self.name, "TERM")
        return self.wait()

    def wait(self) -> int:
        """Return the driver's exit code once it ended."""
        return self.process.wait(_BOUND)


@contextmanager
def running(image: Image, directory: Path, told: Told) -> Iterator[Container]:
    """Start the image as it is.

    ``directory`` takes the bundle and the log; its ``csi`` is where the socket comes to lie, and
    who made it before has decided whose it is.
    """
    (directory / "config.json").write_text(json.dumps(_spec(image, directory, told)))
    name = f"csi-addons-rbd-test-{os.getpid()}-{directory.name}"
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [*_command(directory), "run", "--bundle", str(directory), name],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield Container(name=name, directory=directory, process=process)
    finally:
        _runc(directory, "delete", "--force", name)
        process.wait(_BOUND)


def _spec(image: Image, directory: Path, told: Told) -> dict[str, Any]:
    config = image.config
    uid, gid = (int(number) for number in (told.user or config["User"]).split(":"))
    binds = (
        _bind(directory / "csi", SOCKET_DIR, "rw"),
        _bind(told.config_dir, "/etc/ceph-csi-config", "ro"),
    )
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(image.root), "readonly": True},
        "process": {
            "args": [*config["Entrypoint"], *config["Cmd"]],
            "env": [*config["Env"], *(f"{key}={value}" for key, value in told.environment.items())],
            "cwd": "/",
            "user": {"uid": uid, "gid": gid, "additionalGids": list(told.groups)},
            "capabilities": {},
            "noNewPrivileges": True,
        },
        "mounts": [*_DEVICES, *binds],
        "linux": {"namespaces": [{"type": each} for each in _PRIVATE]},
    }


def _bind(source: Path, destination: str, access: str) -> dict[str, Any]:
    options = ["rbind", "nosuid", "nodev", "noexec", access]
    return {
        "destination": destination,
        "type": "bind",
        "source": str(source),
        "options": options,
    }


def _runc(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_command(directory), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=_BOUND,
    )


def _command(directory: Path) -> list[str]:
    """Return how runc is called, with a list of containers of its own."""
    return [shutil.which("runc") or "runc", "--root", str(directory / "runc")]
