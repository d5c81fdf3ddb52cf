# SPDX-License-Identifier: Apache-2.0
"""The log."""

import json
import logging
import os
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
import structlog

from csi_addons_rbd.config import LogFormat, LogLevel
from csi_addons_rbd.logs import configure


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Give pytest its handlers back."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Each event is one JSON object with level, UTC time and what the context holds."""
    configure(level=LogLevel.INFO, style=LogFormat.JSON)
    structlog.contextvars.bind_contextvars(call_id="abc-1")
    structlog.get_logger("test").info("an event", size=3)
    structlog.get_logger("test").debug("too quiet")
    captured = capsys.readouterr()
    assert captured.out == ""
    line = json.loads(captured.err)
    assert datetime.fromisoformat(line.pop("timestamp")).utcoffset() == timedelta(0)
    assert line == {
        "event": "an event",
        "level": "info",
        "logger": "test",
        "size": 3,
        "call_id": "abc-1",
    }


def test_a_console_shows_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody who calls colours a terminal, moves its cursor, or makes up a line of the log."""
    configure(level=LogLevel.INFO, style=LogFormat.CONSOLE)
    structlog.contextvars.bind_contextvars(volume="a\x1b[2Jb\nc\u202e")
    structlog.get_logger("test").info("an event", reason="plain words, ünïcödé")
    (line,) = capsys.readouterr().err.splitlines()
    assert r"volume=a\x1b[2Jb\nc\u202e" in line
    assert "plain words, ünïcödé" in line


def test_other_loggers_take_the_same_road(capsys: pytest.CaptureFixture[str]) -> None:
    """What grpc logs through the standard library comes out as the same JSON."""
    configure(level=LogLevel.INFO, style=LogFormat.JSON)
    logging.getLogger("grpc._server").error("something %s", "odd")
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["logger"], line["level"]) == (
        "something odd",
        "grpc._server",
        "error",
    )


@pytest.mark.parametrize("style", LogFormat)
def test_tracebacks_show_no_locals(style: LogFormat, capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback names the line, but never the value of a local variable."""
    configure(level=LogLevel.INFO, style=style)
    key = os.fsdecode(b"AQsecret==")
    try:
        int(key[:0])
    except ValueError:
        structlog.get_logger().exception("a fault")
    error = capsys.readouterr().err
    assert "ValueError" in error
    assert "int(key[:0])" in error
    assert key not in error
