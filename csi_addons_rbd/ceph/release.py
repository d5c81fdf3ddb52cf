# SPDX-License-Identifier: Apache-2.0
"""Which release of Ceph's libraries is loaded."""

import ctypes
from functools import cache
from pathlib import Path


@cache
def release() -> str:
    """Return the release of Ceph's libraries, which no binding tells, such as ``16.2.15``."""
    loaded = Path("/proc/self/maps").read_text()
    paths = (line.split()[-1] for line in loaded.splitlines() if "libceph-common.so" in line)
    try:
        # C++'s name of: const char *ceph_version_to_str()
        version = ctypes.CDLL(next(paths))["_Z19ceph_version_to_strv"]
    except (AttributeError, OSError, StopIteration):
        return "of unknown release"
    version.restype = ctypes.c_char_p
    return str(version().decode())
