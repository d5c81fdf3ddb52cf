# SPDX-License-Identifier: Apache-2.0
"""The cases, a module a subject; importing them all fills ``CASES`` in the order of the table."""

from importlib import import_module
from typing import Final

_MODULES: Final = (
    "info",
    "start",
    "connects",
    "freshness",
    "alone",
    "moves",
    "polling",
    "failover",
)


def load() -> None:
    """Register every case."""
    for each in _MODULES:
        import_module(f"{__name__}.{each}")
