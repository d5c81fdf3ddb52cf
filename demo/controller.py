# SPDX-License-Identifier: Apache-2.0
"""What the csi-addons controller does on its own: ask again and again how each primary fares.

Its answers are what a volume's metrics show.
"""

import threading
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from demo.drivers import Driver, Stuck

_EVERY: Final = 1.0
"""Seconds between two rounds; the controller's are half an interval."""
_PATIENCE: Final = 1.0
"""Seconds for a round to end in; one that asks a dead cluster ends with its driver."""


class Controller:
    """Asks each driver about the volumes that are primary there, aside."""

    name = "the controller"

    def __init__(self, drivers: Collection[Driver]) -> None:
        self._over = threading.Event()
        # a dead cluster keeps nobody else waiting
        self._threads = [
            threading.Thread(target=self._ask, args=(driver,), daemon=True) for driver in drivers
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._over.set()
        for thread in self._threads:
            thread.join(_PATIENCE)

    def gone(self) -> bool:
        """Tell whether all rounds have ended."""
        return not any(thread.is_alive() for thread in self._threads)

    def _ask(self, driver: Driver) -> None:
        while not self._over.wait(_EVERY):
            for handle in tuple(driver.primaries):
                # the story finds out, and tells, when a driver is no more
                with suppress(Stuck, ValueError):
                    driver.ask("GetVolumeReplicationInfo", handle).call()
