# SPDX-License-Identifier: Apache-2.0
"""The pages of docs/reference say what the code does, no less and no more."""

import re
from pathlib import Path

from test_interceptor import _ERRORS

from csi_addons_rbd._proto import identity_pb2, replication_pb2
from csi_addons_rbd.api.interceptor import status_of
from csi_addons_rbd.api.parameters import _KNOWN
from csi_addons_rbd.command_line import _SERVE

PAGES = Path(__file__).parents[2] / "docs" / "reference"


def rows(page: str) -> list[list[str]]:
    """Return the cells of every row of every table of a page."""
    lines = (PAGES / page).read_text().splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("| `")
    ]


def test_errors_page_lists_every_reason_with_its_code_and_whether_it_lasts() -> None:
    """A caller's back-off is right when it follows the page."""
    page = {reason.strip("`"): (code, lasts) for reason, code, lasts, *_ in rows("errors.md")}
    code = {
        each.reason: (status_of(each("")).name, "temporary" if each.temporary else "permanent")
        for each in _ERRORS
    }
    assert page == code


def test_errors_page_says_who_acts_and_what_looks_closer() -> None:
    """At night nobody searches: each reason has its meaning, its reader, and a command or a log."""
    for reason, _, _, meaning, who, closer in rows("errors.md"):
        assert len(meaning) > 15, reason
        assert re.match(r"nobody|(storage|cluster) administrator|whoever|see those", who), reason
        assert re.search(r"`[a-z]\w+ [^`]+`|`csi_\w+`|driver's log|see those", closer), reason


def test_parameters_page_lists_every_parameter_and_flag() -> None:
    """Defaults of flags are those of the program."""
    page = {row[0].strip("`"): row[1].strip("`") for row in rows("parameters.md")}
    flags = {name: default for name, default in page.items() if name.startswith("--")}
    assert flags == {
        each.flag: "required" if each.default is None else each.default or "none" for each in _SERVE
    }
    assert page.keys() - flags.keys() == _KNOWN | {"userID", "userKey"}


def test_behaviour_page_has_every_method_and_only_real_reasons() -> None:
    """A section for each method; every reason that it names exists."""
    text = (PAGES / "rpc-behaviour.md").read_text()
    methods = {
        method.name
        for service in (
            replication_pb2.DESCRIPTOR.services_by_name["Controller"],
            identity_pb2.DESCRIPTOR.services_by_name["Identity"],
        )
        for method in service.methods
    }
    assert set(re.findall(r"^## (\w+)$", text, re.MULTILINE)) == {"GetIdentity", *methods}
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+|BUSY)`", text))
    assert named <= {each.reason for each in _ERRORS}
