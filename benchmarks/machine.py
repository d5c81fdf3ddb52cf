# SPDX-License-Identifier: Apache-2.0
"""On what was measured."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import rbd

from lab import Site


def describe(site: Site) -> dict[str, str]:
    """Name the machine, and the versions of what takes part."""
    ceph = site.ceph("version").split()
    return {
        "processor": f"{_field('/proc/cpuinfo', 'model name')}, {os.cpu_count()} cores",
        "memory": f"{int(_field('/proc/meminfo', 'MemTotal').split()[0]) / (1 << 20):.0f} GiB",
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
        "Ceph": f"{ceph[2]}, librbd {'.'.join(map(str, rbd.RBD().version()))}",
        "grpcio": version("grpcio"),
        "Python": platform.python_version(),
    }


def _field(file: str, key: str) -> str:
    for line in Path(file).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return "unknown"
