# SPDX-License-Identifier: Apache-2.0
"""The pod's processes really run with the rights that the manifests leave them.

Root, as in a fresh directory of the kubelet; its own mount namespace with a read-only root file
system; no capability. Only paths differ, and the interpreter, which may lie where none but root
may read: so the driver may read anything, and write no more than in the pod.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from rendering import container, pod, rendered

_START_SECONDS: Final = 60
_OUR_PROGRAM: Final = [sys.executable, "-m", "csi_addons_rbd"]
_READ_ALL: Final = "dac_read_search"

_UNSHARE: Final = ["unshare", "--mount", "--", "true"]
_ALLOWED: Final = os.geteuid() == 0 and not subprocess.run(_UNSHARE, check=False).returncode

pytestmark = pytest.mark.skipif(
    not _ALLOWED, reason="only root can become other users, and only where it may unshare mounts"
)


def as_in_the_pod(each: dict[str, Any], argv: list[str], writable: Path) -> list[str]:
    """Wrap a command so that it runs with a container's user and rights."""
    context = {**pod(rendered("base"))["securityContext"], **each["securityContext"]}
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["readOnlyRootFilesystem"]
    kept = f"-all,+{_READ_ALL}" if context["runAsUser"] else "-all"
    become = [
        "setpriv", f"--reuid={context['runAsUser']}", f"--regid={context['runAsGroup']}",
        "--clear-groups", f"--bounding-set={kept}", f"--inh-caps={kept}",
        *([f"--ambient-caps={kept}"] if context["runAsUser"] else []),
        "--no-new-privs",
    ]  # fmt: skip
    read_only = f'mount --bind "{writable}" "{writable}" && mount -o remount,bind,ro / && exec "$@"'
    return ["unshare", "--mount", "--", "sh", "-ec", read_only, "sh", *become, *argv]


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A node's directories: the socket's, as the kubelet makes it, and the configuration."""
    (tmp_path / "csi").mkdir(mode=0o755)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.json").write_text(
        '[{"clusterID": "rook-ceph", "monitors": ["127.0.0.1:1"]}]'
    )
    return tmp_path


def on_this_node(text: str, node: Path) -> str:
    """Put the test's paths in place of the pod's."""
    return (
        text.replace("/csi/", f"{node}/csi/")
        .replace("/etc/ceph-csi-config", f"{node}/config")
        .replace("$(POD_IP):9809", "127.0.0.1:0")
    )


def prepare(node: Path) -> None:
    """Run the init container."""
    (init,) = pod(rendered("base"))["initContainers"]
    command = [f"{node}/csi" if each == "/csi" else each for each in init["command"]]
    subprocess.run(as_in_the_pod(init, command, node / "csi"), check=True)


def driver_command(node: Path) -> tuple[list[str], dict[str, str]]:
    """Return the driver's command, and the environment that it shares with its probes."""
    ours = container(rendered("base"), "csi-addons-rbd")
    arguments = [on_this_node(each, node) for each in ours["args"]]
    given = {
        each["name"]: on_this_node(each["value"], node) for each in ours["env"] if "value" in each
    }
    command = as_in_the_pod(ours, [*_OUR_PROGRAM, *arguments], node / "csi")
    return command, {**os.environ, **given}


@contextmanager
def driver(node: Path) -> Iterator[None]:
    """Run the driver's container."""
    command, environment = driver_command(node)
    with subprocess.Popen(command, env=environment) as process:
        try:
            yield
        finally:
            process.terminate()
        assert process.wait(_START_SECONDS) == 0


def probe(node: Path) -> int:
    """Run the container's probe once and return its exit code."""
    ours = container(rendered("base"), "csi-addons-rbd")
    _, *arguments = ours["startupProbe"]["exec"]["command"]
    _, environment = driver_command(node)
    command = as_in_the_pod(ours, [*_OUR_PROGRAM, *arguments], node / "csi")
    return subprocess.run(command, env=environment, check=False).returncode


def test_root_file_system_is_read_only(node: Path) -> None:
    """What the others rest on: outside of the socket's directory nobody writes."""
    (init,) = pod(rendered("base"))["initContainers"]
    touch = ["touch", str(node / "csi" / "new"), str(node / "new")]
    assert subprocess.run(as_in_the_pod(init, touch, node / "csi"), check=False).returncode == 1
    assert (node / "csi" / "new").exists()
    assert not (node / "new").exists()


def test_driver_serves_as_the_manifest_says(node: Path) -> None:
    """From a directory that is root's alone to a probe that says ready."""
    prepare(node)
    with driver(node):
        deadline = time.monotonic() + _START_SECONDS
        while probe(node):
            assert time.monotonic() < deadline
            time.sleep(1)
        socket = (node / "csi" / "csi-addons.sock").stat()
        assert (socket.st_uid, socket.st_gid, socket.st_mode & 0o777) == (10001, 10001, 0o660)
    assert not (node / "csi" / "csi-addons.sock").exists()


def test_without_the_init_container_the_driver_cannot_serve(node: Path) -> None:
    """So it is there for a reason."""
    command, environment = driver_command(node)
    run = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_START_SECONDS,
    )
    assert run.returncode == 1
    assert "Permission denied" in run.stderr
