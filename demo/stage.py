# SPDX-License-Identifier: Apache-2.0
"""The stage: one volume, two sites; how calls on it are shown, and facts about it checked."""

import random
import time
from collections import Counter
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from rich.text import Text

from demo.drivers import RETRIED, Answer, Ask, Driver, poll, repeat
from demo.prometheus import Prometheus
from demo.report import Report
from demo.witness import Witness
from lab import Lab
from lab.volumes import handle_of

MIB: Final = 1 << 20
SIZE: Final = 32 * MIB
INTERVAL: Final = "1m"
WAITED_FOR: Final = (*RETRIED, "OK")
"""Codes after which a call is made again that waits for what OK alone does not tell."""
FOLLOWING: Final = "up+replaying"
_BOUND: Final = 60
"""Seconds within which the driver answers whatever Ceph does (its default)."""


class Stage:
    """One volume with a witness and a driver on each site."""

    def __init__(
        self,
        lab: Lab,
        drivers: dict[str, Driver],
        prometheus: Prometheus,
        report: Report,
        mode: str,
    ) -> None:
        self._prometheus, self._report, self._mode = prometheus, report, mode
        self._driver1, self._driver2 = drivers["dr1"], drivers["dr2"]
        self._volume = lab.make_volume("dr1", SIZE)
        self._dr1, self._dr2 = (Witness(lab.sites[name], self._volume) for name in ("dr1", "dr2"))
        self._parameters = {"mirroringMode": mode}
        if mode == "snapshot":
            self._parameters["schedulingInterval"] = INTERVAL
        self._random = random.Random(mode)  # noqa: S311 - known data, no secret
        self._written = 0
        self._forced = 0

    def restore(self) -> None:
        """Bring back what a story that got stuck left dead."""
        for witness in (self._dr1, self._dr2):
            witness.site.start()

    # --- facts -------------------------------------------------------------------------------

    def _write_news(self, witness: Witness, where: str) -> None:
        """Write a block that was never there before, and read it back.

        A primary takes writes at once. One that does not fails the check, however soon it does
        later; the story goes on then, to show the rest.
        """
        self._written += 1
        data, offset = self._random.randbytes(MIB), self._written * MIB
        began, refused = time.monotonic(), ""
        if not witness.takes(data, offset):
            holders = witness.lock_holders() or "nobody"
            with self._report.step(f"{witness.name} refuses writes; {holders} holds the lock"):
                poll(lambda: witness.takes(data, offset), 60, f"{witness.name} takes writes")
            refused = f"read-only for {time.monotonic() - began:.1f} s, then "
        right = witness.read(len(data), offset) == data
        seen = (refused + "1 MiB" if refused else "1 MiB at once") if right else "reads otherwise"
        self._report.check(f"new data {where}", "1 MiB at once", seen)

    def _check_following(self, secondary: Witness, *, primary: Witness) -> None:
        """Wait until one site follows the other, and look at both."""
        for witness, state, expected in (
            (secondary, FOLLOWING, f"secondary, {FOLLOWING}"),
            (primary, "up+stopped", "primary, up+stopped"),
        ):
            with self._report.step(f"rbd-mirror of {witness.name} tells its state") as step:
                poll(partial(witness.says, state), 90, f"{state} on {witness.name}")
                step.result = state
            self._report.check(witness.name, expected, f"{witness.role()}, {witness.state()}")

    def _check_roles(self, dr1: str, dr2: str) -> None:
        for witness, expected in ((self._dr1, dr1), (self._dr2, dr2)):
            self._report.check(f"the image on {witness.name}", expected, witness.role())

    def _check_last_sync(self, driver: Driver) -> None:
        answers = self._repeat(
            self._ask(driver, "GetVolumeReplicationInfo"),
            done=lambda answer: _last_sync(answer) > 0,
            retried=(*WAITED_FOR, "NOT_FOUND"),
        )
        info = answers[-1].response
        when = datetime.fromtimestamp(info.last_sync_time.seconds, UTC)
        age = time.time() - info.last_sync_time.seconds
        self._report.check(
            "last sync time", "less than 2 min ago", f"{when:%Y-%m-%d %H:%M:%S} UTC", ok=age < 120
        )
        if info.HasField("last_sync_duration"):
            seconds = info.last_sync_duration.ToTimedelta().total_seconds()
            self._report.say(
                f"the last mirror snapshot: {info.last_sync_bytes / MIB:g} MiB copied in "
                + (f"{seconds:g} s" if seconds else "less than a second")
            )

    def _check_healthy(self, driver: Driver) -> None:
        """Wait until the primary's site calls replication healthy."""
        answers = self._repeat(
            self._ask(driver, "GetVolumeReplicationInfo"),
            done=lambda answer: _status(answer) == "HEALTHY",
            retried=(*WAITED_FOR, "NOT_FOUND"),
            seconds=90,
            tell=_status,
        )
        self._report.check("replication", "HEALTHY", _status(answers[-1]))
        self._report.say(answers[-1].response.status_message)

    def _check_destinations(self) -> None:
        """DR1's handle leads to DR2's, and that one back."""
        here, there = self._volume.handle, handle_of(self._dr2.site, self._volume.uuid)
        for driver, handle, expected in (
            (self._driver1, here, there),
            (self._driver2, there, here),
        ):
            answer = self._settle(driver.ask("GetReplicationDestinationInfo", handle))
            seen = answer.response.replication_destination.volume.volume_id
            # the uuid, which ends both, says little and is long
            short = [each.removesuffix(f"-{self._volume.uuid}") for each in (expected, seen)]
            self._report.check(f"asked on {driver.name}: the peer's handle", *short)

    def _check_bounded_answer(self, driver: Driver) -> None:
        """A driver whose cluster is dead says so, soon, and is not dead itself."""
        gone = self._settle(self._ask(driver, "DemoteVolume"), "UNAVAILABLE")
        seen, right = f"{gone.seconds:.1f} s", gone.seconds <= _BOUND
        self._report.check("DR1's driver, its cluster dead", "UNAVAILABLE", gone.code)
        self._report.check("… answers", f"within {_BOUND} s", seen, ok=right)
        self._report.check(
            "… and to Identity.Probe", "ready", "ready" if driver.probe() else "not ready"
        )

    def _check_fires(self, alert: str) -> None:
        """Wait until Prometheus fires an alert."""
        with self._report.step(f"Prometheus fires {alert}") as step:
            summaries = poll(lambda: self._firing(alert), 60, f"{alert} fires")
            step.result = summaries[alert]
        self._report.check(alert, "fires", "fires" if self._firing(alert) else "does not fire")

    def _check_quiet(self, *alerts: str) -> None:
        """Wait until alerts are over, by default all."""
        words = ", ".join(alerts) or "every alert"
        with self._report.step(f"Prometheus sees the end of {words}"):
            poll(lambda: not self._firing(*alerts), 90, f"{words} is over")
        still = ", ".join(self._firing(*alerts))
        self._report.check(f"{words}, still firing", "none", still or "none")

    def _firing(self, *alerts: str) -> dict[str, str]:
        """Return the summaries of those of these alerts that fire; of all, if none is named."""
        firing = self._prometheus.firing(self._volume.handle)
        return {name: words for name, words in firing.items() if name in (alerts or firing)}

    def _picture(self, *, lost: bool = False, split: bool = False) -> None:
        """Draw how the sites stand, as their administrators see it."""
        roles = ["lost" if lost else self._dr1.role(), self._dr2.role()]
        text = Text()
        arrows = {
            ("primary", "secondary"): " ━━━▶ ",
            ("secondary", "primary"): " ◀━━━ ",
        }
        arrow = " ━≠━ " if split else arrows.get((roles[0], roles[1]), "      ")
        for witness, role in zip((self._dr1, self._dr2), roles, strict=True):
            style = {"primary": "bold green", "secondary": "cyan", "lost": "bold red"}.get(
                role, "dim"
            )
            state = "" if role == "lost" else f" {witness.state()}"
            text.append(f"{witness.name} {role}", style=style).append(state, style="dim")
            if witness is self._dr1:
                text.append(arrow, style="bold")
        self._report.picture(text)

    # --- how calls and waits are made and shown ----------------------------------------------

    def _ask(self, driver: Driver, method: str, **fields: Any) -> Ask:
        return driver.ask(method, self._volume.handle, **fields)

    def _repeat(
        self,
        ask: Ask,
        *,
        done: Callable[[Answer], bool],
        retried: Collection[str] = RETRIED,
        seconds: float = 150,
        tell: Callable[[Answer], str] = lambda answer: answer.short,
    ) -> list[Answer]:
        """Repeat a call until its answer is as it should be, shown as one step."""
        answers: list[Answer] = []
        with self._report.step(ask.title) as step:
            for answer in repeat(ask.call, done=done, retried=retried, seconds=seconds):
                answers.append(answer)
                step.result = tell(answer)
                step.waiting(step.result)
            before = Counter(map(tell, answers[:-1]))
            if before:
                seen = ", ".join(f"{each} ({number} times)" for each, number in before.items())
                step.result += f", after {seen}"
            if answers[-1].message:
                step.details.append(answers[-1].message)
        return answers

    def _settle(
        self,
        ask: Ask,
        code: str = "OK",
        *,
        retried: Collection[str] = RETRIED,
        tell: Callable[[Answer], str] = lambda answer: answer.short,
    ) -> Answer:
        """Repeat a call as the controller does, until it is answered with this code."""
        return self._repeat(
            ask, done=lambda answer: answer.code == code, retried=retried, tell=tell
        )[-1]

    def _wait(self, what: str, probe: Callable[[], bool], seconds: float) -> None:
        with self._report.step(what):
            poll(probe, seconds, what)

    def _driver(self, witness: Witness) -> Driver:
        return self._driver1 if witness is self._dr1 else self._driver2


def readiness(answer: Answer) -> str:
    """Say what ResyncVolume answered about ``ready``, or the code if it is not OK."""
    if answer.code != "OK":
        return answer.short
    return "ready=true" if answer.response.ready else "ready=false"


def _status(answer: Answer) -> str:
    if answer.code != "OK":
        return answer.short
    return str(answer.response.Status.Name(answer.response.status))


def _last_sync(answer: Answer) -> int:
    """Return the last sync time that GetVolumeReplicationInfo gave; 0 if it gave none."""
    return int(answer.response.last_sync_time.seconds) if answer.code == "OK" else 0
