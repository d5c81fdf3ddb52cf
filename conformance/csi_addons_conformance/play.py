# SPDX-License-Identifier: Apache-2.0
"""A model that plays against the drivers: any calls, in any order, in any weather.

``python -m csi_addons_conformance.play --driver COMMAND --examples 200``. Several players, each
a process with volumes of its own, share one lab. What each of them holds the drivers to: every
acknowledged write that nobody knowingly gave up by a force is on some side, always; a promotion
without force, and ``ready=true``, only where all of them are.
"""

import argparse
import fcntl
import multiprocessing
import queue
import random
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, ClassVar, Final

import rados
import rbd
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from csi_addons_conformance.client import Answer
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage
from csi_addons_conformance.staging import add_arguments, staged
from lab import Volume

_BLOCK: Final = 4096
_SIZE: Final = 1 << 20
_DEADLINE: Final = 15
"""Seconds that a call may take here: less than the drivers wait, so that players stay busy."""
_LATE: Final = 5
_SITES: Final = st.sampled_from((0, 1))


class Violation(AssertionError):
    """A driver lost, or could have lost, what was acknowledged."""


class Player(RuleBasedStateMachine):
    """One volume, what must be on it, and the calls that may be made about it."""

    stage: ClassVar[Stage]
    tally: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.history: list[str] = []
        self.written = 0
        self.kept: set[int] = set()
        """Numbers of the acknowledged writes that were not given up."""
        self.weather: _Weather | None = None

    # --- the start -----------------------------------------------------------------------------

    @initialize(mode=st.sampled_from(("snapshot", "journal")))
    def begin(self, mode: str) -> None:
        """Start with a volume whose copy follows; where the weather forbids it, without."""
        self.tally["examples"] += 1
        self.volume: Volume = self._fair_weather_volume()
        self.mode = mode
        self._write(self.sites[0])
        self._call(0, "EnableVolumeReplication", parameters={"mirroringMode": mode})
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline and self._content(self.sites[1]) != self.kept:
            time.sleep(1)
        # in snapshot mode nothing carries this one over but a demotion
        self._write(self.sites[0])
        self._note(f"a volume in {mode} mode")

    def _fair_weather_volume(self) -> Volume:
        """Make a volume as soon as dr1 answers: another player may have frozen it."""
        while True:
            try:
                return self.stage.volume(size=_SIZE)
            except (rbd.Error, rados.Error):
                time.sleep(1)

    @property
    def sites(self) -> tuple[SiteUnderTest, SiteUnderTest]:
        """Both sites."""
        return self.stage.here, self.stage.there

    # --- the moves -----------------------------------------------------------------------------

    @rule(site=_SITES)
    def write(self, site: int) -> None:
        """Write one more block, where the image takes it."""
        if self._write(self.sites[site]):
            self._note(f"{self.sites[site].name}: write {self.written} acknowledged")

    @rule(site=_SITES, force=st.sampled_from((False, False, True)))
    def promote(self, site: int, force: bool) -> None:  # noqa: FBT001 - hypothesis draws it
        """Promote; without force nothing may be missing there."""
        before = self._role(site)
        answer = self._call(site, "PromoteVolume", force=force)
        if answer.code != "OK" or before != "secondary":
            return
        content = self._content(self.sites[site])
        if content is None:
            return
        if force:
            self.kept &= content
        elif not self.kept <= content:
            raise self._violation(f"promoted without force, and lacks {self.kept - content}")

    @rule(site=_SITES)
    def demote(self, site: int) -> None:
        """Demote."""
        self._call(site, "DemoteVolume")

    @rule(site=_SITES)
    def move(self, site: int) -> None:
        """Fail over as planned, as far as that works."""
        for _ in range(3):
            if self._call(site, "DemoteVolume").code == "OK":
                self.promote(1 - site, force=False)
                return

    @rule(site=_SITES, force=st.booleans())
    def resync(self, site: int, force: bool) -> None:  # noqa: FBT001 - hypothesis draws it
        """Resync; what is only here may go by force alone, and not before that call."""
        here, there = (self._content(self.sites[each]) for each in (site, 1 - site))
        answer = self._call(site, "ResyncVolume", force=force)
        if answer.ready:
            now = self._content(self.sites[site])
            if now is not None and not self.kept <= now:
                raise self._violation(f"ready, and lacks {self.kept - now}")
        elif force and answer.code in ("OK", "DEADLINE_EXCEEDED") and here and there is not None:
            self.kept -= here - there

    @rule()
    def enable(self) -> None:
        """Enable where it is not."""
        self._call(0, "EnableVolumeReplication", parameters={"mirroringMode": self.mode})

    @rule(site=_SITES, force=st.sampled_from(("false", "false", "true")))
    def disable(self, site: int, force: str) -> None:
        """Disable; by force on a secondary its peer's word is no longer asked for."""
        self._call(site, "DisableVolumeReplication", parameters={"force": force})

    @rule(site=_SITES, kind=st.sampled_from(("rbd-mirror dead", "rbd-mirror frozen", "frozen")))
    def change_weather(self, site: int, kind: str) -> None:
        """Take a daemon, or the whole site, away from everybody; only one player at a time."""
        if self.weather is None:
            self.weather = _Weather.take(self.stage, self.sites[site], kind)
            self._note(f"weather: {kind} on {self.sites[site].name}: {bool(self.weather)}")

    @rule()
    def clear_up(self) -> None:
        """Bring back what this player took away, or let time pass."""
        if self.weather is None:
            time.sleep(3)
            return
        self.weather.end()
        self.weather = None
        self._note("weather: fair")

    # --- what must hold ------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost(self) -> None:
        """Every write that was kept is on some side; a side that cannot be read may hold it."""
        if not hasattr(self, "mode"):
            return
        contents = [self._content(site) for site in self.sites]
        if None in contents:
            return
        lost = self.kept - contents[0] - contents[1]  # type: ignore[operator]
        if lost:
            raise self._violation(f"writes {lost} are on neither side: {contents}")

    def teardown(self) -> None:
        """Leave fair weather to the others."""
        if self.weather is not None:
            self.weather.end()

    # --- the means -----------------------------------------------------------------------------

    def _call(self, site: int, method: str, **fields: Any) -> Answer:
        client = self.sites[site].client
        answer = client.call(method, self.volume.handle, timeout=_DEADLINE, **fields)
        self.tally[f"{method} {answer.code}"] += 1
        said = f" ready={str(answer.ready).lower()}" if method == "ResyncVolume" else ""
        self._note(f"{self.sites[site].name}: {fields or ''} {answer}{said}")
        if answer.code in ("UNKNOWN", "INTERNAL"):
            raise self._violation(f"{answer}")
        if answer.seconds > _DEADLINE + _LATE:
            raise self._violation(f"answered late: {answer}")
        return answer

    def _write(self, site: SiteUnderTest) -> bool:
        """Write the next number in the next block; only where the image is primary."""
        number = self.written + 1
        try:
            with _image(site, self.volume, writing=True) as image:
                mirrored = image.mirror_image_get_info()
                if mirrored["state"] == rbd.RBD_MIRROR_IMAGE_ENABLED and not mirrored["primary"]:
                    return False
                image.write(struct.pack("<Q", number), number * _BLOCK % _SIZE)
                image.flush()
        except (rbd.Error, rados.Error):
            # perhaps written, never acknowledged
            self.written = number
            return False
        self.written = number
        self.kept.add(number)
        return True

    def _content(self, site: SiteUnderTest) -> set[int] | None:
        """Read which writes a site holds; nothing without an image, ``None`` if nobody can tell."""
        try:
            with _image(site, self.volume) as image:
                data = image.read(0, image.size())
        except rbd.ImageNotFound:
            return set()
        except (rbd.Error, rados.Error):
            return None
        numbers = (struct.unpack_from("<Q", data, at)[0] for at in range(0, len(data), _BLOCK))
        return {number for number in numbers if number}

    def _role(self, site: int) -> str:
        try:
            with _image(self.sites[site], self.volume) as image:
                return "primary" if image.mirror_image_get_info()["primary"] else "secondary"
        except (rbd.Error, rados.Error):
            return "unknown"

    def _note(self, text: str) -> None:
        self.history.append(f"{time.strftime('%H:%M:%S')}  {text}")

    def _violation(self, what: str) -> Violation:
        lines = "\n".join(self.history)
        return Violation(f"{what}; kept {self.kept}; {self.volume.image}\n{lines}")


@contextmanager
def _image(site: SiteUnderTest, volume: Volume, *, writing: bool = False) -> Iterator[rbd.Image]:
    """Open an image in bounded time: the site may be frozen."""
    bounds = {"rados_osd_op_timeout": "5", "rados_mon_op_timeout": "5", "client_mount_timeout": "5"}
    cluster = rados.Rados(conffile=str(site.site.ceph_conf), rados_id="admin", conf=bounds)
    cluster.connect()
    try:
        with (
            cluster.open_ioctx(site.site.pool) as ioctx,
            rbd.Image(ioctx, volume.image, read_only=not writing) as image,
        ):
            yield image
    finally:
        cluster.shutdown()


class _Weather:
    """What one player took away from all; a file lock keeps it to one at a time."""

    def __init__(self, lock: IO[str], site: SiteUnderTest, kind: str) -> None:
        self._lock, self._site = lock, site
        if kind == "rbd-mirror dead":
            self._fault: Any = site.without("rbd-mirror")
        else:
            self._fault = site.frozen(*(("rbd-mirror",) if "mirror" in kind else ("mon", "osd")))
        self._fault.__enter__()

    @classmethod
    def take(cls, stage: Stage, site: SiteUnderTest, kind: str) -> "_Weather | None":
        """Change the weather, unless another player just did."""
        lock = (stage.lab.directory / "weather").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        return cls(lock, site, kind)

    def end(self) -> None:
        """Restore it."""
        self._fault.__exit__(None, None, None)
        self._lock.close()


# --- several players --------------------------------------------------------------------------


def _play(
    lab: Path, endpoints: list[str], number: int, options: argparse.Namespace, results: Any
) -> None:
    """Be one player, in a process of its own."""
    arguments = argparse.Namespace(lab=lab, site=endpoints, driver=None)
    with staged(arguments) as stage:
        Player.stage, Player.tally = stage, Counter()
        machine = seed(options.seed + number)(Player)
        chosen = settings(
            max_examples=-(-options.examples // options.players),
            stateful_step_count=options.steps,
            deadline=None,
            database=None,
            # a real system is never the same twice: the history tells more than a smaller one
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        )
        violation = ""
        try:
            run_state_machine_as_test(machine, settings=chosen)
        except Exception as exc:  # noqa: BLE001 - the others must hear of it, whatever it is
            violation = _words(exc)
        results.put((number, dict(Player.tally), violation))


def _words(exc: Exception) -> str:
    """Describe what ended a player; hypothesis may wrap it, since nothing happens twice alike."""
    if isinstance(exc, ExceptionGroup):
        inner = sorted(exc.exceptions, key=lambda each: not isinstance(each, Violation))
        return _words(inner[0])
    return f"{type(exc).__name__}: {exc}"


def main() -> None:
    """Let the players play; exit code 1 when one of them found a violation."""
    options = _parser().parse_args()
    print(f"seed {options.seed}", flush=True)
    began, tally, violations = time.monotonic(), Counter[str](), []
    spawning = multiprocessing.get_context("spawn")
    results = spawning.Queue()
    with staged(options) as stage:
        endpoints = [f"{site.name}={site.client.endpoint}" for site in (stage.here, stage.there)]
        lab = stage.lab.directory / "lab.json"
        players = [
            spawning.Process(target=_play, args=(lab, endpoints, number, options, results))
            for number in range(options.players)
        ]
        _each(players, lambda player: player.start())
        for number, counted, violation in _reports(players, results):
            tally.update(counted)
            if violation:
                violations.append(f"player {number}, {violation}")
                print(violations[-1], flush=True)
        _each(players, lambda player: player.join())
    for name, count in sorted(tally.items()):
        print(f"{count:6}  {name}")
    print(
        f"{tally['examples']} examples, {len(violations)} violations, seed {options.seed}, "
        f"{time.monotonic() - began:.0f} s"
    )
    sys.exit(bool(violations))


def _reports(players: list[Any], results: Any) -> Iterator[tuple[int, dict[str, int], str]]:
    """Yield what each player reports, also of one that librbd took with it when it crashed."""
    missing = set(range(len(players)))
    while missing:
        # looked at first: what a player says, it says before it ends
        ended = [number for number in missing if not players[number].is_alive()]
        try:
            report = results.get(timeout=5)
        except queue.Empty:
            for number in ended:
                missing.remove(number)
                yield number, {}, f"ended without a word, exit code {players[number].exitcode}"
            continue
        missing.remove(report[0])
        yield report


def _each(players: list[Any], act: Callable[[Any], None]) -> None:
    for player in players:
        act(player)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m csi_addons_conformance.play")
    add_arguments(parser)
    parser.add_argument("--examples", type=int, default=200, help="volumes to play with, in all")
    parser.add_argument("--players", type=int, default=6, help="volumes at once")
    parser.add_argument("--steps", type=int, default=12, help="moves for each volume")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    return parser


if __name__ == "__main__":
    from csi_addons_conformance.play import main as run

    run()
