# SPDX-License-Identifier: Apache-2.0
"""The process: its worker dies, it dies itself, another one wants its socket."""

import multiprocessing
import os
import shlex
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

from conftest import COMMAND
from csi_addons_conformance.case import expect, poll, settle
from csi_addons_conformance.driver_process import DriverProcess
from csi_addons_conformance.stage import Stage

from csi_addons_rbd.ceph.worker import Worker
from csi_addons_rbd.command_line import parse
from csi_addons_rbd.config import Config
from csi_addons_rbd.replication.calls import Ask, Beat, Credentials, DemoteCall, Place
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import Exhausted
from csi_addons_rbd.replication.volume_id import VolumeId
from lab import Volume
from tests.driver_insides import metrics, workers

BEFORE_DEMOTING = "before demoting"


def sample(driver: DriverProcess, series: str) -> float | None:
    """Return the value of one series of a scrape; ``None`` where there is none."""
    lines = metrics(driver).splitlines()
    found = [line for line in lines if line.startswith(f"csi_addons_rbd_{series} ")]
    return float(found[0].rpartition(" ")[2]) if found else None


def test_metrics_show_a_volume_for_as_long_as_it_is_mirrored(stage: Stage) -> None:
    """How it fares, by the last answer about it; and how its cluster is reached."""
    volume, driver = stage.mirrored(schedulingInterval="1h"), stage.here.driver
    about = f'volume="{volume.handle}"'
    assert sample(driver, f'volume_mirror_daemon_up{{site="here",{about}}}') == 1
    assert sample(driver, f'volume_mirror_daemon_up{{site="peer",{about}}}') == 1
    assert sample(driver, f"volume_interval_seconds{{{about}}}") == 3600
    synced = sample(driver, f"volume_last_sync_timestamp_seconds{{{about}}}") or 0
    assert 0 <= time.time() - synced < 120
    assert (sample(driver, 'cluster_connections{cluster="site-dr1"}') or 0) >= 1
    answered = sample(driver, 'cluster_last_answer_timestamp_seconds{cluster="site-dr1"}') or 0
    assert 0 <= time.time() - answered < 60
    settle(lambda: stage.here.client.disable(volume.handle))
    assert volume.handle not in metrics(driver)


def test_a_killed_worker_costs_running_calls_and_nothing_else(stage: Stage) -> None:
    """A promote that waits gets its answer at once; the next call finds a new worker."""
    volume, driver = stage.mirrored(), stage.there.driver
    with ThreadPoolExecutor() as executor:
        waiting = executor.submit(stage.there.client.promote, volume.handle)
        poll(lambda: len(workers(driver)) == 1, seconds=10, what="a worker", every=0.1)
        (worker,) = workers(driver)
        time.sleep(1)  # let the call arrive there
        os.kill(worker, signal.SIGKILL)
        lost = waiting.result(timeout=10)
    expect(lost, "UNAVAILABLE", saying=("Killed",))
    assert lost.reason == "WORKER_LOST"
    settle(lambda: stage.there.client.demote(volume.handle), seconds=10)
    assert workers(driver) not in ([], [worker])
    assert 'worker_losses_total{cluster="site-dr2"} 1.0' in metrics(driver)
    expect(stage.there.client.probe(), "OK", within=1)


def test_no_core_dump_of_what_holds_keys(stage: Stage, tmp_path: Path) -> None:
    """A worker that talks to Ceph is not dumpable: its memory holds the key, as a dump would."""
    volume = stage.volume()
    command = f"setpriv --regid=65534 --clear-groups {COMMAND}"
    driver = DriverProcess(command, stage.here.site, tmp_path)
    try:
        expect(driver.client.enable(volume.handle), "OK")
        for pid in (driver.pid, *workers(driver)):
            owner = Path(f"/proc/{pid}/environ").stat()
            assert (owner.st_uid, owner.st_gid) == (0, 0), pid
        (worker,) = workers(driver)
        os.kill(worker, signal.SIGSEGV)
        settle(lambda: driver.client.disable(volume.handle), seconds=30)
        assert "was ended by signal 11" in driver.log.read_text()
    finally:
        driver.stop()


def test_a_second_server_on_a_live_socket_refuses_to_start(stage: Stage) -> None:
    """It says why and ends; the first one goes on."""
    driver = stage.here.driver
    argv = shlex.split(
        COMMAND.format(
            socket=driver.endpoint.removeprefix("unix://"),
            config_dir=stage.here.site.config_dir,
            check_interval=5,
            port=driver.port,
        )
    )
    second = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode != 0
    assert "csi" in second.stderr
    expect(stage.here.client.probe(), "OK", within=1)


def test_kill_9_leaves_nothing_that_blocks_a_restart(stage: Stage, volume: Volume) -> None:
    """Killed in the middle of calls and started again, the same call converges."""
    expect(stage.here.client.enable(volume.handle, schedulingInterval="1h"), "OK")
    stage.here.restart_driver()
    expect(stage.here.client.enable(volume.handle, schedulingInterval="1h"), "OK")
    assert len(stage.here.schedules(volume)) == 1


def test_sigterm_ends_it_within_the_grace(stage: Stage) -> None:
    """Exit code 0, the socket gone, no worker left; then it is started for the others."""
    driver = stage.here.driver
    running = workers(driver)
    began = time.monotonic()
    assert driver.stop() == 0
    assert time.monotonic() - began < 15
    assert not Path(driver.endpoint.removeprefix("unix://")).exists()
    assert not [pid for pid in running if Path(f"/proc/{pid}").exists()]
    driver.start()


def test_sigterm_ends_it_while_librbd_hangs(stage: Stage) -> None:
    """A demote that waits for a frozen OSD does not keep the process; its caller is told."""
    volume, driver = stage.mirrored(), stage.here.driver
    with stage.here.frozen("osd"), ThreadPoolExecutor() as executor:
        hanging = executor.submit(stage.here.client.demote, volume.handle)
        time.sleep(2)  # let the call arrive there
        began = time.monotonic()
        assert driver.stop() == 0
        assert time.monotonic() - began < 15
        expect(hanging.result(timeout=10), "UNAVAILABLE", "CANCELLED")
    driver.start()
    settle(lambda: stage.here.client.demote(volume.handle), seconds=60)


def await_step(fault: Path) -> None:
    """Wait until a Demote is held at the step that was armed."""
    reached = fault.with_name(f"{fault.name}.reached")
    poll(reached.exists, seconds=30, what="a step is reached")
    assert reached.read_text() == "before demoting"


def test_a_worker_in_which_librbd_hangs_is_replaced(stage: Stage, fault: Path) -> None:
    """What does not come back after an outage is given up, and the same call converges."""
    volume, driver = stage.mirrored(), stage.here.driver
    serving = driver.pid
    fault.write_text(BEFORE_DEMOTING)  # inside of Ceph's libraries, under a lease
    with ThreadPoolExecutor() as executor:
        hanging = executor.submit(stage.here.client.demote, volume.handle)
        await_step(fault)
        expect(stage.here.client.promote(volume.handle), "ABORTED", saying=("demote",), within=5)
        with stage.here.frozen("osd"):
            time.sleep(12)
        lost = hanging.result(timeout=65)  # past the driver's own bound of 60 s
    expect(lost, "UNAVAILABLE", saying=("hung",))
    assert lost.reason == "WORKER_LOST"
    settle(lambda: stage.here.client.demote(volume.handle), seconds=60)
    assert driver.pid == serving
    assert 'worker_losses_total{cluster="site-dr1"} 1.0' in metrics(driver)


def test_nobody_waits_for_the_lease_of_a_worker_that_died(stage: Stage, fault: Path) -> None:
    """Its successor knows what it left behind: clients are fenced, and the lease is broken."""
    volume, driver = stage.mirrored(), stage.here.driver
    fault.write_text(BEFORE_DEMOTING)  # under a lease
    with ThreadPoolExecutor() as executor:
        held = executor.submit(stage.here.client.demote, volume.handle)
        await_step(fault)
        (worker,) = workers(driver)
        os.kill(worker, signal.SIGKILL)
        expect(held.result(timeout=30), "UNAVAILABLE", saying=("Killed",))
    answers = []
    settle(lambda: answers.append(stage.here.client.demote(volume.handle)) or answers[-1])
    assert "LEASE_HELD" not in {answer.reason for answer in answers}
    assert "broke the lease of a process that died" in driver.log.read_text()


def test_a_demotion_that_never_happened_ends_no_schedule(stage: Stage, fault: Path) -> None:
    """Nobody asks for it again, and only GetVolumeReplicationInfo comes: snapshots go on."""
    volume = stage.mirrored(schedulingInterval="1h")
    fault.write_text(BEFORE_DEMOTING)
    with ThreadPoolExecutor() as executor:
        held = executor.submit(stage.here.client.demote, volume.handle)
        await_step(fault)
        os.kill(workers(stage.here.driver)[0], signal.SIGKILL)
        expect(held.result(timeout=30), "UNAVAILABLE", saying=("Killed",))
    assert stage.here.primary(volume)

    def noted() -> str:
        settle(lambda: stage.here.client.info(volume.handle))
        with stage.here.image(volume) as image:
            return str(dict(image.metadata_list()).get(".rbd.csi-addons-rbd.schedule"))

    poll(lambda: noted().endswith('"placed": true}'), seconds=60, what="a schedule that is kept")
    assert stage.here.schedules(volume) == [("1h", "")]


def starved(connection: Connection, config: Config) -> None:
    """Run a worker in a process that may have no more threads than it begins with."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if threading.active_count() > 1:
            raise RuntimeError("can't start new thread")
        start(thread)

    threading.Thread.start = refuse  # type: ignore[method-assign]
    Worker(connection, config, "here", ()).serve()


def test_a_thread_that_cannot_start_ends_no_worker(tmp_path: Path) -> None:
    """Each caller is told to come again later, and the worker goes on."""
    socket = f"unix://{tmp_path}/csi.sock"
    command = ("serve", "--endpoint", socket, "--driver-name", "x", "--config-dir", str(tmp_path))
    config = parse(command, {})
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=starved, args=(theirs, config))
    process.start()
    theirs.close()
    call = DemoteCall(
        volume=VolumeId(cluster="here", pool=1, uuid="b0285c97-a0ce-11eb-8c66-0242ac110002"),
        credentials=Credentials(user="nobody", key="none"),
    )
    place = Place(cluster="here", monitors=("127.0.0.1:1",), pool=1, namespace="")
    try:
        for number in (1, 2):
            ours.send(
                Ask(
                    number=number,
                    call_id="",
                    call=call,
                    places=(place,),
                    until=Deadline.after(20),
                )
            )
            while isinstance(reply := ours.recv(), Beat):
                pass
            assert reply.number == number
            assert isinstance(reply.answer, Exhausted)
    finally:
        ours.close()
        process.join(10)
        process.kill()
