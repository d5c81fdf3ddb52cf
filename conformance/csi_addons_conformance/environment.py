# SPDX-License-Identifier: Apache-2.0
"""What a run depends on, to be told beside its results."""

import platform
from collections.abc import Mapping

from csi_addons_conformance import speed
from lab.site import ceph_version


def environment() -> Mapping[str, str]:
    """Return the release of the lab's Ceph, that of Python, and how bounds on time are scaled."""
    return {
        "Ceph": ceph_version(),
        "Python": platform.python_version(),
        "time bounds": f"× {speed.factor():.2f}",
    }
