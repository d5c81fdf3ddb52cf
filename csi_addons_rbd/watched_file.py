# SPDX-License-Identifier: Apache-2.0
"""A JSON file that changes underfoot: its last good content, parsed.

The content is compared, not the file's times: a ConfigMap swaps symlinks, and two writes within
one tick of the clock look alike to ``stat``. Such a file is a few kilobytes.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

import structlog

from csi_addons_rbd.json_values import MalformedFileError, decode
from csi_addons_rbd.metrics import Metrics

_TOLD: Final = 20
"""Faults of one version of a file that are logged one by one."""
_log = structlog.get_logger(__name__)


class _Parsed(Protocol):
    @property
    def faults(self) -> tuple[str, ...]: ...


_T = TypeVar("_T", bound=_Parsed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading(Generic[_T]):
    """What a file said at one moment."""

    value: _T | None
    """The last good version; ``None`` when there never was one."""
    trouble: str = ""
    """What is wrong with the file now, so that the value is not what it says; empty when nothing
    is."""


class WatchedFile(Generic[_T]):
    """One file. Every method may be called from any thread.

    Args:
        path: Where it is.
        parse: Makes a value of what JSON holds.
        metrics: Counts changes that could not be used, and what was left out of those that could.
        absent: What a file that was never there says; ``None`` if it must be there.
    """

    def __init__(
        self, path: Path, parse: Callable[[object], _T], metrics: Metrics, *, absent: _T | None
    ) -> None:
        self.path = path
        self._parse = parse
        self._absent = absent
        self._failures = metrics.config_reload_failures.labels(path.name)
        self._ignored = metrics.config_entries_ignored.labels(path.name)
        self._lock = threading.Lock()
        self._seen: bytes | OSError | None = None
        self._reading: Reading[_T] = Reading(value=None)
        self.current()

    def current(self) -> Reading[_T]:
        """Read the file, and parse it if it changed."""
        with self._lock:
            found = self._read()
            if not _same(found, self._seen):
                self._seen = found
                self._load(found)
            return self._reading

    def _read(self) -> bytes | OSError:
        try:
            return self.path.read_bytes()
        except OSError as exc:
            return exc

    def _load(self, found: bytes | OSError) -> None:
        good = self._reading.value
        try:
            value = self._understand(found, good)
        except (MalformedFileError, ValueError, OSError) as exc:
            self._reading = Reading(value=good, trouble=f"{self.path}: {_reason(exc)}")
            self._failures.inc()
            _log.error(
                "a configuration file cannot be used",
                file=str(self.path),
                error=_reason(exc),
                in_use="nothing" if good is None else "the last good version",
            )
        else:
            self._reading = Reading(value=value)
            _log.info("a configuration file was read", file=str(self.path))
            self._tell(value.faults)

    def _tell(self, faults: tuple[str, ...]) -> None:
        """Name what was left out, once per change."""
        self._ignored.set(len(faults))
        for fault in faults[:_TOLD]:
            _log.error("a part of a configuration file is ignored", file=str(self.path), why=fault)
        if len(faults) > _TOLD:
            _log.error(
                "more parts of a configuration file are ignored",
                file=str(self.path),
                more=len(faults) - _TOLD,
            )

    def _understand(self, found: bytes | OSError, good: _T | None) -> _T:
        # one that vanishes is being rewritten, or taken away by mistake
        never_there = good is None or good == self._absent
        if isinstance(found, FileNotFoundError) and self._absent is not None and never_there:
            return self._absent
        if isinstance(found, OSError):
            raise found
        if not found.strip():
            raise MalformedFileError("it is empty; write a list into it, [] for nothing")
        content = decode(found)
        # a list that was never filled in; later it would make forget what the file said
        if not content and self._absent is not None and never_there:
            return self._absent
        return self._parse(content)


def _same(one: bytes | OSError | None, other: bytes | OSError | None) -> bool:
    if isinstance(one, OSError) and isinstance(other, OSError):
        return one.errno == other.errno
    return one == other


def _reason(exc: Exception) -> str:
    return (exc.strerror or "cannot be read") if isinstance(exc, OSError) else str(exc)
