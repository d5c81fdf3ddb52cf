# SPDX-License-Identifier: Apache-2.0
"""No key of a cluster may show: not in logs, command lines, metrics or error texts."""

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from demo.drivers import Driver
from demo.report import Report


class Secrecy:
    """Looks for the real keys of both sites wherever they might have leaked to."""

    def __init__(self, drivers: Collection[Driver]) -> None:
        self._drivers = drivers
        self._keys = [driver.site.secrets["userKey"].encode() for driver in drivers]
        self._command_lines = 0
        self._shown = 0

    def look_at_processes(self) -> None:
        """Look at the command line of every process there is now."""
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # it may have ended meanwhile
                self._shown += self._count(file.read_bytes())
                self._command_lines += 1

    def check(self, report: Report) -> None:
        """Check everything there is to check; the drivers must still run."""
        self.look_at_processes()
        logs = [driver.log.read_bytes() for driver in self._drivers]
        pages = [driver.metrics().encode() for driver in self._drivers]
        texts = [text.encode() for driver in self._drivers for text in driver.texts]
        debug = sum(log.count(b'"level": "debug"') for log in logs)
        report.check("debug lines in the logs", "more than 0", debug, ok=debug > 0)
        lines = sum(data.count(b"\n") for data in logs)
        shown = sum(map(self._count, logs))
        report.check(f"userKey in {lines} lines of json logs", "0 times", f"{shown} times")
        lines = sum(data.count(b"\n") for data in pages)
        shown = sum(map(self._count, pages))
        report.check(f"userKey in {lines} lines of /metrics", "0 times", f"{shown} times")
        shown = sum(map(self._count, texts))
        report.check(f"userKey in {len(texts)} error texts", "0 times", f"{shown} times")
        seen, shown = self._command_lines, self._shown
        report.check(f"userKey in {seen} command lines", "0 times", f"{shown} times")

    def _count(self, data: bytes) -> int:
        return sum(data.count(key) for key in self._keys)
