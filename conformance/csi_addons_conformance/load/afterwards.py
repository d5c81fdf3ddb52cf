# SPDX-License-Identifier: Apache-2.0
"""What must be so of a driver itself when the load is over."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from csi_addons_conformance.driver_process import DriverProcess

_WORDS_OF_A_FAULT: Final = ("Traceback", "a fault of the driver")
_BEFORE: Final = 300
_AFTER: Final = 1500
"""Characters of a log that are shown around such words."""


def wrong_with(driver: DriverProcess, pid: int, keys: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong: another process, not ready, a fault or a secret key in its log."""
    if driver.pid != pid or not Path(f"/proc/{pid}").exists():
        yield f"the driver's process {pid} is gone"
        return
    answer = driver.client.probe()
    if answer.code != "OK" or not answer.response.ready.value:
        yield f"not ready: {answer}"
    log = driver.log.read_text(errors="replace")
    for words in _WORDS_OF_A_FAULT:
        at = log.find(words)
        if at >= 0:
            yield f"the log holds {words!r}: …{log[max(0, at - _BEFORE) : at + _AFTER]}…"
    if any(key in log for key in keys):
        yield "the log holds a secret key"
