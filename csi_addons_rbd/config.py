# SPDX-License-Identifier: Apache-2.0
"""What the driver was told, as frozen values.

Standard library only and nothing heavy, because the worker processes load this module too.
How the values come from flags and environment stands in ``command_line.py``.
"""

from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Final

PROGRAM: Final = "csi-addons-rbd"
CONFIG_FILE: Final = "config.json"
MAPPING_FILE: Final = "cluster-mapping.json"


class LogFormat(StrEnum):
    """How a log line looks."""

    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """The least severe events that are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where an endpoint listens on TCP."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return HOST:PORT, as the flag takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What ``serve`` was told. Times are seconds."""

    endpoint: Path
    """Path of the Unix socket."""
    driver_name: str
    """The name under which kubernetes-csi-addons knows this driver."""
    config_dir: Path
    """Directory of config.json and cluster-mapping.json, as ceph-csi mounts it."""
    local_clusters: tuple[str, ...]
    """Cluster ids that are this site's; empty when the user did not name them."""
    metrics_address: Address | None
    log_level: LogLevel
    log_format: LogFormat
    call_timeout: float
    """Bound of every replication call, also of those that come without a deadline."""
    promote_wait: float
    """How long Promote, Demote and Resync wait inside the call for what will pass."""
    state_check_interval: int
    """What the sites' rbd-mirror has as ``rbd_mirror_image_state_check_interval``."""
    connect_timeout: int
    """Bound of one connect to a cluster; librados 16 takes whole seconds only."""
    read_timeout: int
    """Bound of one read from a cluster, likewise."""
    max_calls: int
    """Replication calls at once, in all."""
    max_calls_per_cluster: int
    """Replication calls at once to one cluster; less than ``max_calls``, so that one
    dead cluster cannot take every place."""
    grace: float
    """How long running calls may go on after SIGTERM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeConfig:
    """What ``probe`` was told."""

    endpoint: Path
    timeout: float


def version() -> str:
    """Return the version of the installed package."""
    try:
        return metadata.version(PROGRAM)
    except metadata.PackageNotFoundError:
        return "unknown"
