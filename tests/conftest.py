# SPDX-License-Identifier: Apache-2.0
"""What all tests share: hypothesis without a clock, and the real two-site lab."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from csi_addons_conformance import speed
from hypothesis import settings

_NEEDS_LAB = "lab"
_TIMEOUT = 120
# on a quiet machine; an option says otherwise for what takes longer
os.environ.setdefault("PYTEST_TIMEOUT", f"{_TIMEOUT * speed.factor():.0f}")
# how long one example takes says more of the machine than of the code
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


def pytest_report_header() -> str:
    """Name the Ceph release that the tests run on."""
    release = shutil.which("ceph-osd")
    if release is None:
        return "ceph: not installed"
    with os.popen("ceph-osd --version") as output:  # noqa: S605, S607 - Ceph's own, by name
        return f"ceph: {output.read().strip()}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the lab, by the fixtures it uses, and report what guards data."""
    for item in items:
        if _NEEDS_LAB in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ceph)
        if item.get_closest_marker("safety"):
            item.user_properties.append(("kind", "safety"))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Two real sites for the whole session; REQUIRE_CEPH turns a skip into a failure."""
    try:
        from lab import Lab, LabError  # noqa: PLC0415 - needs python3-rbd
        from lab.site import require_tools  # noqa: PLC0415

        require_tools()
    except (ImportError, LabError) as exc:
        if os.environ.get("REQUIRE_CEPH"):
            raise
        pytest.skip(f"no lab on this machine: {exc}")
    sites = Lab.up(Path(tmp_path_factory.mktemp("lab")))
    yield sites
    sites.down()
