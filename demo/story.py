# SPDX-License-Identifier: Apache-2.0
"""The story: one volume goes through everything replication is for, in one mode."""

from collections.abc import Callable

from demo.drivers import Answer, Driver, poll
from demo.stage import FOLLOWING, INTERVAL, MIB, SIZE, WAITED_FOR, Stage, readiness
from demo.witness import Witness

HELD = "MIRROR_DAEMON_HOLDS_IMAGE"
MIRROR_DOWN = "CsiAddonsRbdMirrorDaemonDown"
SILENT = "CsiAddonsRbdClusterSilent"
IN_ERROR = "CsiAddonsRbdVolumeInError"
_ALARM = "rbd-mirror of DR2 stops, and Prometheus tells"


class Story(Stage):
    """All chapters, in one mode."""

    def tell(self, between: Callable[[], None], *, briefly: bool) -> None:
        """Act every chapter, but for one when told briefly; ``between`` is called after each."""
        for title, chapter in (
            ("A volume on DR1 is replicated to DR2", self._replicate),
            *(() if briefly else ((_ALARM, self._stop_mirroring),)),
            ("Planned failover: DR1 → DR2", self._fail_over),
            ("Failback: DR2 → DR1", self._fail_back),
            ("DR1 is lost: all its daemons die", self._lose_site),
            ("DR1 comes back: split-brain, and the way out", self._return_of_site),
            ("ready: when may an application move?", self._ready),
            ("Home again, and the end of replication", self._home_again),
        ):
            with self._report.chapter(title):
                chapter()
                between()

    # --- the chapters ------------------------------------------------------------------------

    def _replicate(self) -> None:
        report = self._report
        with report.step(f"the workload fills a volume of {SIZE // MIB} MiB on DR1") as step:
            self._dr1.write(self._random.randbytes(SIZE), 0)
            step.result = f"sha256 {self._dr1.checksum()}…"
        report.say(self._volume.handle)
        self._settle(
            self._ask(self._driver1, "EnableVolumeReplication", parameters=self._parameters)
        )
        self._promote(self._driver1)
        self._check_following(self._dr2, primary=self._dr1)
        report.check("the image on DR2", "listed", "listed" if self._dr2.exists() else "absent")
        taken = self._dr2.takes(b"a secondary must not take this", 0)
        report.check(
            "a write on DR2",
            "refused: read-only",
            "taken" if taken else "refused: read-only",
            ok=not taken,
        )
        self._check_last_sync(self._driver1)
        self._check_healthy(self._driver1)
        self._check_destinations()
        self._picture()

    def _stop_mirroring(self) -> None:
        """The volume works on, and its copy stands still: somebody must be told."""
        self._check_quiet()
        with self._report.step("rbd-mirror of DR2 is stopped") as step:
            self._dr2.site.stop("rbd-mirror")
            step.result = "ended"
        self._check_fires(MIRROR_DOWN)
        with self._report.step("rbd-mirror of DR2 is started again") as step:
            self._dr2.site.start("rbd-mirror")
            step.result = "runs"
        self._check_quiet()

    def _fail_over(self) -> None:
        self._write_news(self._dr1, "on DR1, just before the move")
        self._move(self._dr1, self._dr2)

    def _fail_back(self) -> None:
        self._move(self._dr2, self._dr1)

    def _lose_site(self) -> None:
        report = self._report
        synced = self._sync_last_words()
        self._dr1.write(b"never seen elsewhere", 0)
        late = self._dr1.checksum()
        with report.step("DR1 is lost: OSD, rbd-mirror, mgr and mon") as step:
            self._dr1.site.kill()
            step.result = "dead"
        self._picture(lost=True)
        self._check_bounded_answer(self._driver1)
        self._check_fires(SILENT)
        refused = self._settle(self._ask(self._driver2, "PromoteVolume"), "FAILED_PRECONDITION")
        report.check("promotion without force", "PEER_UNREACHABLE", refused.reason)
        self._force_promotion()
        seen = self._dr2.checksum()
        words = {synced: "as last synced", late: "as last written"}.get(seen, "something else")
        report.check("DR2's data", "as last synced, or newer", words, ok=seen in (synced, late))
        report.say(self._what_was_lost(lost=seen == synced))
        self._write_news(self._dr2, "on DR2, while DR1 is gone")
        self._picture(lost=True)

    def _return_of_site(self) -> None:
        report = self._report
        with report.step("DR1 starts again") as step:
            self._dr1.site.start()
            step.result = "active+clean"
        self._check_quiet(SILENT)
        self._check_roles("primary", "primary")
        self._settle(self._ask(self._driver1, "DemoteVolume"))
        # OK and not ready until rbd-mirror has found out what happened
        refused = self._settle(
            self._ask(self._driver1, "ResyncVolume"),
            "FAILED_PRECONDITION",
            retried=WAITED_FOR,
            tell=readiness,
        )
        report.check("resync without force", "SPLIT_BRAIN", refused.reason)
        self._check_fires(IN_ERROR)
        self._picture(split=True)
        self._resync()
        if self._mode == "snapshot":
            self._dr2.mirror_snapshot()
        expected = self._dr2.checksum()
        self._wait("DR1 has DR2's data", lambda: self._dr1.checksum() == expected, 120)
        report.check("DR1's checksum is DR2's", expected, self._dr1.checksum())
        self._check_following(self._dr1, primary=self._dr2)
        self._check_healthy(self._driver2)
        self._check_quiet()
        self._picture()

    def _ready(self) -> None:
        report = self._report
        live = self._settle(self._ask(self._driver1, "ResyncVolume"), tell=readiness)
        report.check("a healthy secondary of a live primary", "ready=false", readiness(live))
        self._write_news(self._dr2, "on DR2, its last words")
        expected = self._dr2.checksum()
        self._settle(self._ask(self._driver2, "DemoteVolume"))
        self._repeat(
            self._ask(self._driver1, "ResyncVolume"),
            done=lambda answer: readiness(answer) == "ready=true",
            retried=WAITED_FOR,
            tell=readiness,
        )
        report.check("DR1's checksum, once it is ready", expected, self._dr1.checksum())
        self._check_roles("secondary", "secondary")
        self._picture()

    def _home_again(self) -> None:
        report = self._report
        expected = self._dr1.checksum()
        self._promote(self._driver1)
        self._check_following(self._dr2, primary=self._dr1)
        self._check_healthy(self._driver1)
        self._picture()
        self._settle(self._ask(self._driver1, "DisableVolumeReplication"))
        self._wait("DR2's copy goes by itself", lambda: not self._dr2.exists(), 90)
        self._check_roles("disabled", "absent")
        report.check("DR1's checksum, after all of it", expected, self._dr1.checksum())

    # --- scenes ------------------------------------------------------------------------------

    def _move(self, old: Witness, new: Witness) -> None:
        """Move the volume as planned: promoted at once after the demotion, never forced."""
        report, forced, expected = self._report, self._forced, old.checksum()
        self._settle(self._ask(self._driver(old), "DemoteVolume"))
        self._promote(self._driver(new))
        report.check("forced promotions", 0, self._forced - forced)
        report.check(f"{new.name}'s checksum is {old.name}'s", expected, new.checksum())
        self._write_news(new, f"on {new.name}, the new primary")
        self._check_following(old, primary=new)
        self._picture()

    def _force_promotion(self) -> None:
        """Force; where the answer says that rbd-mirror hangs on the lost peer, restart it."""
        answers = self._repeat(
            self._ask(self._driver2, "PromoteVolume", parameters=self._parameters, force=True),
            done=lambda answer: answer.code == "OK" or answer.reason == HELD,
        )
        if answers[-1].code == "OK":
            return
        with self._report.step("rbd-mirror of DR2 is restarted, as the answer says") as step:
            self._dr2.site.kill("rbd-mirror")
            self._dr2.site.start("rbd-mirror")
            step.result = "runs"
        block = self._dr2.read(512, 0)
        self._wait("DR2 takes writes", lambda: self._dr2.takes(block, 0), 90)
        self._promote(self._driver2, force=True)

    def _promote(self, driver: Driver, *, force: bool = False) -> None:
        self._forced += force
        self._settle(self._ask(driver, "PromoteVolume", force=force, parameters=self._parameters))

    def _resync(self) -> None:
        """Force the resync, repeated as the controller does, until DR1 follows DR2 again."""
        ids = [self._dr1.image_id()]

        def copied(_: Answer) -> bool:
            now = self._dr1.image_id()
            if now not in (None, ids[-1]):
                ids.append(now)
            return len(ids) > 1 and self._dr1.says(FOLLOWING)

        answers = self._repeat(
            self._ask(self._driver1, "ResyncVolume", force=True),
            done=copied,
            retried=WAITED_FOR,
            tell=readiness,
        )
        said = sorted({readiness(answer) for answer in answers if answer.code == "OK"})
        self._report.check("all the while", "ready=false", ", ".join(said))
        seen = " → ".join(map(str, ids))
        self._report.check("DR1's image id", "changed once", seen, ok=len(ids) == 2)

    def _sync_last_words(self) -> str:
        """Write on DR1 and wait until all of it is on DR2; return the checksum."""
        self._write_news(self._dr1, "on DR1, shortly before its loss")
        expected = self._dr1.checksum()
        if self._mode == "snapshot":
            self._dr1.mirror_snapshot()
        with self._report.step("DR2 has it too") as step:
            poll(lambda: self._dr2.complete() and self._dr2.checksum() == expected, 90, "a copy")
            step.result = f"sha256 {expected}…"
        return expected

    def _what_was_lost(self, *, lost: bool) -> str:
        if not lost:
            return (
                "one more write was made right before the loss, and it came through; it need not "
                "have: what is not carried over when a site dies is lost with it (the RPO)"
            )
        most = {
            "snapshot": "whatever is newer than the last mirror snapshot that reached DR2; with "
            f"schedulingInterval {INTERVAL} that is a minute of writes and the time to copy them",
            "journal": "whatever the journal had not carried over yet, usually seconds of writes",
        }[self._mode]
        return (
            "one more write was made right before the loss, and it is gone with DR1. That is the "
            f"RPO: {most}"
        )
