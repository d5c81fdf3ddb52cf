# SPDX-License-Identifier: Apache-2.0
"""The pages: none is missing from the menu, no link leads nowhere, no command is untested."""

import re
from pathlib import Path

import pytest
import yaml
from pages import PAGES, ROOT, anchors, blocks, commands, links
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from test_interceptor import _ERRORS
from treatment import ELSEWHERE, How, every_command, treatment

from csi_addons_rbd.api.interceptor import CODES
from csi_addons_rbd.metrics import Metrics
from csi_addons_rbd.replication.calls import Health, ReplicationInfo

DOCS = ROOT / "docs"
HOW_TO = DOCS / "how-to"
REASONS = {each.reason for each in _ERRORS}
LANGUAGES = {"", "text", "sh", "console", "yaml", "json", "promql"}
"""Of blocks: each is drawn text, run, or read by a test."""
OTHER_CAPITALS = {"CONTROLLER_SERVICE", "VOLUME_REPLICATION", "GET_REPLICATION_DESTINATION_INFO"}

_METRIC_ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", re.MULTILINE)
_ALERT_ROW = re.compile(r"^\| `(CsiAddonsRbd\w+)` \|", re.MULTILINE)


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_the_menu_has_the_page_once(page: Path) -> None:
    """What is in no menu is found by nobody."""
    entry = str(page.relative_to(DOCS).with_suffix(""))
    lines = (DOCS / "menu.rst").read_text().splitlines()
    assert lines.count(f"   {entry}") == 1


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_the_first_page_leads_to_every_other(page: Path) -> None:
    """Also on a forge, which shows no menu."""
    seen, found = {DOCS / "index.md"}, [DOCS / "index.md"]
    while found:
        here = found.pop()
        for link in links(here):
            target = (here.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.is_file() and target not in seen:
                seen.add(target)
                found.append(target)
    assert page in seen or page == DOCS / "dependencies.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """To files that exist, and headings that are in them; elsewhere by https alone."""
    for link in links(page):
        if re.match(r"\w+:", link):
            assert link.startswith("https://"), link
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_of_a_kind_that_a_test_reads(page: Path) -> None:
    """And one without a kind holds no command."""
    for block in blocks(page):
        assert block.language in LANGUAGES, block.name
        if block.language in {"", "text"}:
            assert not re.search(r"^\w*\$ |^(kubectl|ceph|rbd) ", block.text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_tested_or_marked(page: Path) -> None:
    """'python tests/docs' lists how."""
    for block in blocks(page):
        for command in commands(block):
            assert treatment(command)


def test_no_treatment_stands_for_a_command_that_is_gone() -> None:
    """The table of those that other tests run holds no more than is needed."""
    used = {how for each in every_command() for how in treatment(each).split(How.ELSEWHERE)[1:]}
    named = {part for how in used for part in how.split("; ")}
    assert set(ELSEWHERE.values()) == named


def test_every_reason_has_its_way_out() -> None:
    """A heading of its own with text below it, whose first words say what to do."""
    text = (HOW_TO / "reasons.md").read_text()
    found = dict(re.findall(r"^### ([A-Z_]+)\n\n(.+)$", text, re.MULTILINE))
    assert found.keys() == REASONS
    for reason, first in found.items():
        assert first.startswith(("**", "Not said by itself")), reason
    for line in (DOCS / "reference" / "errors.md").read_text().splitlines():
        assert not line.startswith("| `") or line.strip("| ").rpartition("|")[2].strip(), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_only_real_reasons_are_named(page: Path) -> None:
    """A word in capitals is a reason, a code, or one of the capabilities."""
    known = REASONS | set(CODES) | OTHER_CAPITALS | {"PRIMARY_DEMOTED", "NON_PRIMARY_DEMOTED"}
    known |= {"NON_PRIMARY", "DEGRADED", "ERROR", "HEALTHY", "UNKNOWN"}
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", page.read_text()))
    arguments = {"BASE", "RELEASE", "VERSION", "REVISION", "CREATED", "ENGINE"}
    assert {
        each for each in named if not each.startswith(("CSI_", "SETUPTOOLS_"))
    } <= known | arguments


def exposed() -> list[Metric]:
    """Return what a driver exposes that has seen one of everything."""
    metrics = Metrics(version="0", driver_name="rbd.test")
    metrics.expect_calls(["/replication.Controller/Some"], ["OK"])
    metrics.expect_clusters(["site"])
    metrics.expect_files(["config.json"])
    info = ReplicationInfo(
        last_sync=1,
        last_sync_seconds=1,
        last_sync_bytes=1,
        entries_behind=1,
        interval=1,
        schedule_in_place=True,
        daemon_here=True,
        daemon_there=True,
        health=Health.HEALTHY,
        message="",
    )
    metrics.volumes.note("volume", info)
    return list(text_string_to_metric_families(generate_latest(metrics.registry).decode()))


def test_metrics_page_lists_every_metric_with_its_type_and_labels() -> None:
    """By the name that a query needs."""
    page = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in _METRIC_ROW.findall((DOCS / "reference/metrics.md").read_text())
    }
    ours = {}
    for family in exposed():
        if family.name.startswith("csi_addons_rbd_"):
            suffix = "_total" if family.type == "counter" else ""
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            ours[family.name + suffix] = (family.type, labels)
    assert page == ours


def test_monitor_page_has_every_alert() -> None:
    """And no other."""
    rules = yaml.safe_load(
        (ROOT / "deploy/components/monitoring/prometheus-rule.yaml").read_text()
    )["spec"]["groups"]
    page = _ALERT_ROW.findall((HOW_TO / "monitor.md").read_text())
    assert sorted(page) == sorted(rule["alert"] for group in rules for rule in group["rules"])


def test_queries_ask_for_what_there_is() -> None:
    """Names in queries of the pages are names of samples."""
    names = {sample.name for family in exposed() for sample in family.samples}
    queries = [block.text for page in PAGES for block in blocks(page) if block.language == "promql"]
    assert queries
    for query in queries:
        asked = set(re.findall(r"\bcsi_addons_rbd_\w+", query))
        assert asked, query
        assert asked <= names, query
