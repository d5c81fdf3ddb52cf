# SPDX-License-Identifier: Apache-2.0
"""Pages that need no Kubernetes, typed from their first command to their last."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import ROOT, blocks, commands
from shell import Shell, alike
from treatment import STORIES, How, treatment

LAB = "/tmp/lab"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell in the clone; the lab that the page makes goes with it."""
    try:
        from lab import Lab, LabError  # noqa: PLC0415 - needs python3-rbd
        from lab.site import require_tools  # noqa: PLC0415

        require_tools()
    except (ImportError, LabError) as exc:
        pytest.skip(f"no lab on this machine: {exc}")
    directory = tmp_path / "lab"
    with Shell(ROOT, {LAB: str(directory)}) as opened:
        yield opened
    if directory.exists():
        Lab(directory, {}).down()


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("page", STORIES, ids=lambda page: page.stem)
def test_every_command_answers_as_the_page_shows(page: Path, shell: Shell) -> None:
    """In the page's order, in one shell; an answer differs in numbers, ids and times alone."""
    for block in blocks(page):
        for command in commands(block):
            if treatment(command) != How.RUN:
                continue
            # what 'make setup' makes is what these tests run in
            code, output = shell.type(command.text.replace("make setup", ":"))
            where = f"{block.name}: {command.text}\n{output}"
            assert (code == 0) == ("ERROR:" not in command.answer), where
            if command.block.language == "console":
                assert alike(command.answer, output), where
