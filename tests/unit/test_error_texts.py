# SPDX-License-Identifier: Apache-2.0
"""What errors tell their readers, who do not make the calls: who acts."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import csi_addons_rbd
from csi_addons_rbd.replication import errors

_PACKAGE = Path(csi_addons_rbd.__file__).parent
_MODULES = [path for path in sorted(_PACKAGE.rglob("*.py")) if "_proto" not in path.parts]
_TEMPORARY = (errors.Busy, errors.DeadlineExceeded, errors.Exhausted)
_WAITING = {
    name
    for name, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, _TEMPORARY) and each is not errors.ImageVanished
}
_TO_A_CALLER = re.compile(
    r"\b(ask|asks|call|come|try|repeat)( it| them)? (again|later|anew)\b|\bagain later\b",
    re.IGNORECASE,
)


def _text(node: ast.AST) -> str:
    """Return what a string literal says, however many lines it takes; values as they are named."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.FormattedValue):
        return f"{{{ast.unparse(node.value)}}}"
    return ""


def _calls(path: Path) -> Iterator[tuple[str, str]]:
    """Yield what each error of a module is called with: its class, and its text."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and len(node.args) == 1:
            yield ast.unparse(node.func).removeprefix("errors."), _text(node.args[0])


@pytest.mark.parametrize("path", _MODULES, ids=lambda path: path.stem)
def test_nobody_is_told_to_call(path: Path) -> None:
    """An operator reads the text; the controller calls."""
    for node in ast.walk(ast.parse(path.read_text())):
        assert not _TO_A_CALLER.search(_text(node)), _text(node)


@pytest.mark.parametrize("path", _MODULES, ids=lambda path: path.stem)
def test_what_passes_says_who_retries(path: Path) -> None:
    """Whoever reads it at night shall know whether to stay awake."""
    for name, text in _calls(path):
        if name in _WAITING and text:
            assert "the controller retries" in text or "{NOTHING_TO_DO}" in text, text


def test_errors_that_pass_are_found() -> None:
    """The test above would pass if it looked at nothing."""
    found = {name for path in _MODULES for name, text in _calls(path) if text}
    assert len(found & _WAITING) > 10
