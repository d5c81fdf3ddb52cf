# SPDX-License-Identifier: Apache-2.0
"""Alert rules and dashboard: each alert comes when it must, each query asks for what there is."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from csi_addons_rbd.metrics import Metrics
from csi_addons_rbd.replication.calls import Health, ReplicationInfo

MONITORING = Path(__file__).parents[2] / "deploy/components/monitoring"
ALERTS = Path(__file__).with_name("alerts.yaml")
RULES = yaml.safe_load((MONITORING / "prometheus-rule.yaml").read_text())["spec"]
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
METRIC = re.compile(r"\b(?:csi_addons_rbd|process)_[a-z_]+")


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A directory with the rules as promtool reads them, and their tests."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES))
    shutil.copy(ALERTS, tmp_path)
    return tmp_path


def promtool(directory: Path, *arguments: str) -> None:
    """Run promtool, which must agree."""
    done = subprocess.run(
        ["promtool", *arguments],  # noqa: S607 - the distribution's own
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_valid(rules: Path) -> None:
    """For Prometheus itself."""
    promtool(rules, "check", "rules", "rules.yaml")


def test_every_alert_comes_when_it_must(rules: Path) -> None:
    """And not before, nor after."""
    promtool(rules, "test", "rules", "alerts.yaml")


def test_every_alert_has_such_a_test() -> None:
    """One that comes, and a moment at which it does not."""
    tested: dict[str, set[bool]] = {}
    for group in yaml.safe_load(ALERTS.read_text())["tests"]:
        for each in group["alert_rule_test"]:
            tested.setdefault(each["alertname"], set()).add(bool(each["exp_alerts"]))
    assert tested == {rule["alert"]: {True, False} for rule in RULES["groups"][0]["rules"]}


def queries() -> list[str]:
    """Return every expression of the rules and of the dashboard."""
    asked = [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]
    shown = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    # as Grafana fills in what depends on the data source
    return asked + [each.replace("$__rate_interval", "2m") for each in shown]


def exposed() -> set[str]:
    """Return the names of all samples of a scrape."""
    metrics = Metrics(version="0", driver_name="rbd.test")
    metrics.expect_calls(["/replication.Controller/Some"], ["OK"])
    metrics.expect_clusters(["site"])
    metrics.expect_files(["config.json"])
    metrics.volumes.note(
        "volume",
        ReplicationInfo(
            last_sync=1,
            last_sync_seconds=1,
            last_sync_bytes=1,
            entries_behind=1,
            interval=60,
            schedule_in_place=True,
            daemon_here=True,
            daemon_there=True,
            health=Health.HEALTHY,
            message="",
        ),
    )
    text = generate_latest(metrics.registry).decode()
    return {
        sample.name for family in text_string_to_metric_families(text) for sample in family.samples
    }


@pytest.mark.parametrize("query", queries())
def test_each_query_asks_for_what_there_is(query: str, rules: Path) -> None:
    """Only names that a scrape has, in an expression that Prometheus can parse."""
    names = set(METRIC.findall(query))
    assert names
    assert names <= exposed()
    group = {"name": "probe", "rules": [{"record": "probe", "expr": query}]}
    (rules / "probe.yaml").write_text(yaml.safe_dump({"groups": [group]}))
    promtool(rules, "check", "rules", "probe.yaml")


def test_the_dashboard_can_be_loaded() -> None:
    """Panels with a place, a title and queries; no two with the same id, none on another."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert max(x for x, _ in cells) < 24
        assert panel["title"]
        assert panel["targets"]
