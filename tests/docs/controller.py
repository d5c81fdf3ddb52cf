# SPDX-License-Identifier: Apache-2.0
"""One site's VolumeReplication, and the calls that kubernetes-csi-addons makes of it.

After internal/controller/replication.storage/volumereplication_controller.go: Enable and Promote
until it is primary, where FAILED_PRECONDITION of Promote is answered by force; then the time of the
last sync. Demote, and from the second round on Resync, with force as ``autoResync`` says. Only its
pauses are shorter here.
"""

import threading
from dataclasses import dataclass, field
from typing import Any, Self

from csi_addons_conformance.client import Answer, Client

_EVERY = 2.0
"""Seconds between two rounds; the controller takes 15 and more."""


@dataclass(slots=True, kw_only=True)
class VolumeReplication:
    """What is wished, and what was reached. Rounds are made in a thread of its own."""

    client: Client
    handle: str
    parameters: dict[str, str]
    wished: str
    auto_resync: bool = False
    state: str = ""
    degraded: bool = True
    last_sync: int = 0
    forced: int = 0
    """Promotions by force so far."""
    answers: list[str] = field(default_factory=list)
    _end: threading.Event = field(default_factory=threading.Event)

    def patch(self, spec: dict[str, Any]) -> None:
        """Change the wish, as ``kubectl patch`` does."""
        self.wished = spec.pop("replicationState", self.wished)
        self.auto_resync = spec.pop("autoResync", self.auto_resync)
        assert not spec

    def __enter__(self) -> Self:
        """Begin with the rounds."""
        threading.Thread(target=self._go_round, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Make no further round."""
        self._end.set()

    def _go_round(self) -> None:
        while not self._end.wait(_EVERY):
            if self.wished == "primary":
                self._as_primary()
            else:
                self._as_secondary()

    def _as_primary(self) -> None:
        if self.state == "Primary":
            answer = self._noted(self.client.info(self.handle))
            if answer.code == "OK":
                self.last_sync = answer.response.last_sync_time.seconds
        elif self._noted(self.client.enable(self.handle, **self.parameters)).code == "OK":
            answer = self._noted(self.client.promote(self.handle, **self.parameters))
            if answer.code == "FAILED_PRECONDITION":
                answer = self.client.promote(self.handle, force=True, **self.parameters)
                self.forced += self._noted(answer).code == "OK"
            if answer.code == "OK":
                self.state = "Primary"

    def _as_secondary(self) -> None:
        force = self.auto_resync
        if self._noted(self.client.demote(self.handle)).code != "OK":
            return
        if self.state != "Secondary":
            self.state, self.degraded = "Secondary", True
            return
        answer = self._noted(self.client.resync(self.handle, force=force))
        self.degraded = not answer.ready

    def _noted(self, answer: Answer) -> Answer:
        self.answers.append(str(answer))
        return answer
