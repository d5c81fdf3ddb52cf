# SPDX-License-Identifier: Apache-2.0
"""Two real, small Ceph sites on one machine, mirrored both ways by rbd-mirror.

Each site is one monitor, one manager, one OSD (or two) on memstore and one rbd-mirror, all on
127.0.0.1. Tests, demo and benchmarks use this lab; it is no part of the driver.
"""

from lab.mirrored import Lab
from lab.site import CHECK_INTERVAL, DAEMONS, LabError, Site
from lab.volumes import Volume

__all__ = ["CHECK_INTERVAL", "DAEMONS", "Lab", "LabError", "Site", "Volume"]
