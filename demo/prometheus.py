# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus on loopback, which scrapes both drivers and knows the alert rules of deploy/.

The rules are those that operators get, but for their patience: a minute of ``for`` is a second
here, since an audience would not wait five of them.
"""

import json
import os
import shutil
import sys
import urllib.parse
import urllib.request
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from demo import processes
from demo.drivers import Driver, Stuck, poll
from lab.site import free_port

MONITORING: Final = Path(__file__).parents[1] / "deploy/components/monitoring"
_EVERY: Final = "1s"
_READY_BOUND: Final = 20
_LOG_END: Final = 1000
_SEARCHED: Final = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))


@dataclass(frozen=True, slots=True)
class Series:
    """One series: its labels, and (seconds since the epoch, value) pairs."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


class Prometheus:
    """The process, and questions to it."""

    name = "Prometheus"

    def __init__(self, drivers: Collection[Driver], directory: Path) -> None:
        program = shutil.which("prometheus", path=_SEARCHED)
        if program is None:
            raise Stuck("no prometheus here; scripts/prometheus puts it into .venv")
        home = directory / "prometheus"
        home.mkdir()
        (home / "rules.yaml").write_text(yaml.safe_dump(_rules()))
        (home / "prometheus.yaml").write_text(yaml.safe_dump(_configuration(drivers)))
        self._drivers = len(drivers)
        self._log = home / "log"
        self._address = f"127.0.0.1:{free_port()}"
        self._process = processes.start(
            [
                program,
                f"--config.file={home}/prometheus.yaml",
                f"--storage.tsdb.path={home}/data",
                f"--web.listen-address={self._address}",
            ],
            self._log,
        )

    def wait_ready(self) -> str:
        """Wait until every driver was scraped; say how many alert rules are loaded."""
        try:
            poll(self._scrapes, _READY_BOUND, "Prometheus scrapes every driver")
        except Stuck as exc:
            raise Stuck(f"{exc}\n{self._log.read_text(errors='replace')[-_LOG_END:]}") from exc
        loaded = sum(len(group["rules"]) for group in self._get("rules")["groups"])
        return f"{loaded} alert rules, a minute of their 'for' taken as a second"

    def _scrapes(self) -> bool:
        if self._process.poll() is not None:
            raise Stuck(f"Prometheus ended with {self._process.returncode}")
        try:
            up = self.query("up")
        except Stuck:
            return False  # it does not listen yet
        # until the first scrape, it fires that there is no driver
        return sum(each.points[0][1] for each in up) == self._drivers and not self.firing()

    def firing(self, volume: str = "") -> dict[str, str]:
        """Return what fires now, but for other volumes: the summary of one alert of each name."""
        return {
            alert["labels"]["alertname"]: alert["annotations"]["summary"]
            for alert in self._get("alerts")["alerts"]
            if alert["state"] == "firing" and alert["labels"].get("volume", volume) == volume
        }

    def query(self, expression: str) -> list[Series]:
        """Return what an expression is now."""
        found = self._get("query", query=expression)["result"]
        return [Series(each["metric"], [_point(each["value"])]) for each in found]

    def query_range(self, expression: str, start: float, end: float) -> list[Series]:
        """Return what an expression was, second by second."""
        found = self._get("query_range", query=expression, start=start, end=end, step=_EVERY)
        return [Series(each["metric"], [*map(_point, each["values"])]) for each in found["result"]]

    def _get(self, what: str, **parameters: object) -> dict[str, Any]:
        url = f"http://{self._address}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as page:
                data: dict[str, Any] = json.load(page)["data"]
                return data
        except OSError as exc:
            raise Stuck(f"Prometheus does not answer {url}: {exc}") from exc

    def stop(self) -> None:
        """End it."""
        processes.end(self._process)

    def gone(self) -> bool:
        """Tell whether it has ended."""
        return processes.gone(self._process)


def _rules() -> dict[str, Any]:
    """Return the groups of the PrometheusRule, their patience shortened."""
    spec: dict[str, Any] = yaml.safe_load((MONITORING / "prometheus-rule.yaml").read_text())["spec"]
    for group in spec["groups"]:
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = rule["for"].replace("m", "s")
    return spec


def _configuration(drivers: Collection[Driver]) -> dict[str, Any]:
    targets = [
        {"targets": [f"127.0.0.1:{driver.port}"], "labels": {"instance": driver.name}}
        for driver in drivers
    ]
    # named as the PodMonitor's would be
    jobs = [{"job_name": "demo/csi-addons-rbd", "static_configs": targets}]
    seconds = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), _EVERY)
    return {"global": seconds, "rule_files": ["rules.yaml"], "scrape_configs": jobs}


def _point(pair: tuple[float, str]) -> tuple[float, float]:
    seconds, value = pair
    return float(seconds), float(value)
