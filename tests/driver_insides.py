# SPDX-License-Identifier: Apache-2.0
"""What this driver's processes show of themselves."""

import urllib.request
from pathlib import Path

from csi_addons_conformance.driver_process import DriverProcess

_RUNNING = "csi_addons_rbd_operations_running{"


def workers(driver: DriverProcess) -> list[int]:
    """Return the pids of the processes that talk to Ceph."""
    threads = Path(f"/proc/{driver.pid}/task").glob("*/children")
    children = [pid for each in threads for pid in _children(each)]
    return [int(pid) for pid in children if b"spawn_main" in _command_line(pid)]


def alive(pids: list[int]) -> list[int]:
    """Return those of them that still run; a process that nobody buried yet does not."""
    return [pid for pid in pids if _command_line(str(pid))]


def _children(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []  # of a thread that just ended


def _command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def metrics(driver: DriverProcess) -> str:
    """Return what a scrape gets."""
    with urllib.request.urlopen(f"http://127.0.0.1:{driver.port}/metrics", timeout=5) as page:
        return str(page.read().decode())


def operations(driver: DriverProcess) -> int:
    """Count the operations that run, by the driver's own word of the last second."""
    lines = metrics(driver).splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith(_RUNNING)))
