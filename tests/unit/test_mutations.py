# SPDX-License-Identifier: Apache-2.0
"""The seeded faults still fit the code: one that cannot be applied proves nothing."""

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MUTATIONS = runpy.run_path(str(ROOT / "tests/mutations/__main__.py"))["MUTATIONS"]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.name)
def test_the_line_to_break_stands_there_once(mutation: Any) -> None:
    """In the file that it names."""
    text = (ROOT / "csi_addons_rbd" / mutation.file).read_text()
    assert text.count(mutation.old) == 1
