# SPDX-License-Identifier: Apache-2.0
"""Answers of a moment ago about a volume's copy: who asks over and over costs one look.

No answer is older than that, nor than the end of the last call of this driver that changed its
volume.
"""

import threading
import time
from dataclasses import dataclass
from typing import Final

from csi_addons_rbd.candidates import Candidates
from csi_addons_rbd.clusters import Leads
from csi_addons_rbd.replication.calls import Answer, Call, DestinationCall, InfoCall
from csi_addons_rbd.worker_process import Wait

_FRESH: Final = 1.8
"""Seconds, from the moment in which it was asked for: with all delays it stays below two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    call: InfoCall
    """Only who asks with the same credentials gets it."""
    answer: Answer
    asked: float


class RecentAnswers:
    """Stands before the clusters. Every method may be called from any thread."""

    def __init__(self, candidates: Candidates) -> None:
        self._candidates = candidates
        self._lock = threading.Lock()
        self._changes = 0
        """How many calls that change something have ended."""
        self._kept: dict[str, _Kept] = {}
        """By the volume's uuid, which all handles of one image have in common."""

    def ask(self, call: Call, leads: Leads, wait: Wait) -> Answer:
        """Ask the clusters, unless the answer was given a moment ago.

        Raises:
            DriverError: what a worker answered, or why none could; this is never kept.
        """
        match call:
            case InfoCall():
                return self._info(call, leads, wait)
            case DestinationCall():
                return self._candidates.ask(call, leads, wait)
            case _:
                try:
                    return self._candidates.ask(call, leads, wait)
                finally:
                    self._forget(call.volume.uuid)

    def _info(self, call: InfoCall, leads: Leads, wait: Wait) -> Answer:
        now = time.monotonic()
        with self._lock:
            kept, changes = self._kept.get(call.volume.uuid), self._changes
        if kept is not None and kept.call == call and now - kept.asked < _FRESH:
            return kept.answer
        answer = self._candidates.ask(call, leads, wait)
        with self._lock:
            # what was read while a call changed something may be of the time before
            if changes == self._changes:
                self._keep(_Kept(call=call, answer=answer, asked=now))
        return answer

    def _keep(self, newest: _Kept) -> None:
        """Keep an answer, unless a newer one is there, and drop the old; the lock is held."""
        self._kept = {
            uuid: kept for uuid, kept in self._kept.items() if newest.asked - kept.asked < _FRESH
        }
        standing = self._kept.setdefault(newest.call.volume.uuid, newest)
        if standing.asked < newest.asked:
            self._kept[newest.call.volume.uuid] = newest

    def _forget(self, uuid: str) -> None:
        with self._lock:
            self._changes += 1
            self._kept.pop(uuid, None)
