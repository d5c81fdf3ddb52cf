# SPDX-License-Identifier: Apache-2.0
"""Where the parts meet: config → logs → clusters → workers → api → exit code.

``multiprocessing`` imports this module again in every worker it spawns. So nothing heavy is
imported at the top: grpc belongs to the serving process alone, rbd to the workers.
"""

# ruff: noqa: PLC0415 - see above: each command, and each process, imports what it needs

import signal

if __name__ == "__main__":
    # Ctrl-C ends it as quietly as SIGTERM, also before it is told what to do at either
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Final

from csi_addons_rbd.command_line import ConfigError, parse
from csi_addons_rbd.config import Config, ProbeConfig, version

if TYPE_CHECKING:
    from csi_addons_rbd.api.server import Server
    from csi_addons_rbd.clusters import ClusterMap
    from csi_addons_rbd.metrics import Metrics
    from csi_addons_rbd.workers import WorkerMain, Workers

_USAGE: Final = 2
_DESCRIBE_SECONDS: Final = 60.0
_DESCRIBE_AGAIN_SECONDS: Final = 10.0
"""How long loading the Ceph libraries may take, on a busy node."""
_WORKERS_END: Final = 0.5
"""Seconds that killed workers may take to be gone."""
_LAST_WORDS: Final = 0.5
"""Seconds before the end of the grace in which calls that still run are answered."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        config = parse(sys.argv[1:] if argv is None else argv, os.environ)
    except ConfigError as exc:
        sys.stderr.write(f"{exc}\n")
        return _USAGE
    return _probe(config) if isinstance(config, ProbeConfig) else serve(config)


def _probe(config: ProbeConfig) -> int:
    from csi_addons_rbd.api import probe

    trouble = probe.trouble(config.endpoint, config.timeout)
    if trouble:
        sys.stderr.write(f"{trouble}\n")
    return 1 if trouble else 0


def _worker(
    connection: Connection, config: Config, name: str, left_behind: tuple[str, ...]
) -> None:
    """Run a worker; only ever called in a process of its own."""
    from csi_addons_rbd.ceph import worker

    worker.main(connection, config, name, left_behind)


def _describe(connection: Connection) -> None:
    """Send the versions of the Ceph libraries; only ever called in a process of its own."""
    from csi_addons_rbd.ceph import worker

    worker.describe(connection)


def serve(
    config: Config,
    *,
    worker: "WorkerMain" = _worker,
    describe: Callable[[Connection], None] = _describe,
) -> int:
    """Serve until SIGTERM or SIGINT, then answer or give up what runs, and end the process.

    Args:
        config: What to serve, and where.
        worker: What each worker process runs.
        describe: Sends the versions of the Ceph libraries, from a process of its own.
    """
    stop = _on_signal()  # first: what comes while the rest is imported counts, too
    import structlog

    from csi_addons_rbd import logs
    from csi_addons_rbd.api.socket_file import CannotStartError
    from csi_addons_rbd.clusters import ClusterMap
    from csi_addons_rbd.core_dumps import forbid_core_dumps
    from csi_addons_rbd.metrics import Metrics
    from csi_addons_rbd.workers import Workers

    forbid_core_dumps()
    logs.configure(level=config.log_level, style=config.log_format)
    log = structlog.get_logger(__name__)
    metrics = Metrics(version=version(), driver_name=config.driver_name)
    clusters = ClusterMap(config.config_dir, metrics, config.local_clusters)
    metrics.expect_clusters(clusters.names)
    workers = Workers(worker, config, metrics)
    libraries = _Libraries(describe)
    try:
        server = _server(config, metrics, clusters, workers, libraries)
    except CannotStartError as exc:
        log.critical("cannot start", reason=str(exc))
        return 1
    libraries.load()
    log.info("serving", endpoint=str(config.endpoint), driver=config.driver_name, version=version())
    os.read(stop, 1)
    log.info("stopping", grace=config.grace)
    last_words = threading.Timer(max(config.grace / 2, config.grace - _LAST_WORDS), workers.give_up)
    last_words.daemon = True
    last_words.start()
    server.stop(config.grace)
    workers.close(_WORKERS_END)
    log.info("stopped")
    logging.shutdown()
    # threads that still hang in a call must not keep the process
    os._exit(0)


def _server(
    config: Config,
    metrics: "Metrics",
    clusters: "ClusterMap",
    workers: "Workers",
    libraries: "_Libraries",
) -> "Server":
    """Return the server, serving."""
    from csi_addons_rbd.api.controller import Controller
    from csi_addons_rbd.api.identity import Identity
    from csi_addons_rbd.api.server import Server
    from csi_addons_rbd.api.socket_file import CannotStartError
    from csi_addons_rbd.candidates import Candidates
    from csi_addons_rbd.recent_answers import RecentAnswers

    identity = Identity(
        name=config.driver_name,
        version=version(),
        ceph_client=lambda: libraries.versions,
        ready=lambda: bool(libraries.versions) and clusters.loaded,
    )
    controller = Controller(
        clusters=clusters,
        answers=RecentAnswers(Candidates(workers, connect_timeout=config.connect_timeout)),
        volumes=metrics.volumes,
        call_timeout=config.call_timeout,
    )
    server = Server(config, identity=identity, controller=controller, metrics=metrics)
    if config.metrics_address is not None:
        try:
            metrics.serve(config.metrics_address)
        except OSError as exc:
            raise CannotStartError(
                f"--metrics-address {config.metrics_address} cannot be bound: {exc.strerror}"
            ) from exc
    server.start()
    return server


def _on_signal() -> int:
    """Return a descriptor that can be read once SIGTERM or SIGINT has come.

    A thread that waits for a lock sleeps on when another thread received the signal, or when it
    came just before the wait.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return reader


class _Libraries:
    """The Ceph libraries, loaded once in a process of their own to see that they load."""

    def __init__(self, describe: Callable[[Connection], None]) -> None:
        self._describe = describe
        self.versions = ""
        """Empty until they loaded."""

    def load(self) -> None:
        """Begin to load them; serving does not wait for it."""
        threading.Thread(target=self._load, name="libraries", daemon=True).start()

    def _load(self) -> None:
        import structlog

        from csi_addons_rbd.workers import run_once

        log = structlog.get_logger(__name__)
        while not self.versions:
            try:
                self.versions = run_once(self._describe, _DESCRIBE_SECONDS)
            except (EOFError, OSError) as exc:
                log.error(  # noqa: TRY400 - a traceback of this process tells nothing
                    "rbd and rados do not load; is python3-rbd installed for this interpreter?",
                    error=repr(exc),
                )
                time.sleep(_DESCRIBE_AGAIN_SECONDS)
        log.info("ready to ask clusters", ceph_client=self.versions)


if __name__ == "__main__":
    # run under the importable name, by which spawned processes find the functions above
    from csi_addons_rbd.__main__ import main as run

    sys.exit(run())
