# SPDX-License-Identifier: Apache-2.0
"""The suite's own judgement of what grows, and its reading of /proc."""

import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from csi_addons_conformance.load.growth import TOLERANCE, grown
from csi_addons_conformance.load.processes import Usage, family, usage
from csi_addons_conformance.load.slopes import slope, trend
from csi_addons_conformance.load.spoiling import CONFIG, MAPPING, Spoiler, copied
from hypothesis import given
from hypothesis import strategies as st

_TIMES = [float(second) for second in range(0, 500, 5)]


@given(st.floats(-100, 100), st.floats(-1000, 1000))
def test_slope_of_a_line(climb: float, start: float) -> None:
    """A straight line's slope is found, whatever it is."""
    points = [(x, start + climb * x) for x in _TIMES]
    assert slope(points) == pytest.approx(climb, abs=1e-6)


def test_slope_of_nothing() -> None:
    """No line goes through one point, nor through two at the same moment."""
    assert slope([]) == slope([(1, 2)]) == slope([(1, 2), (1, 3)]) == 0


def test_growth_is_told_from_noise() -> None:
    """What is noise stays flat; a slow leak below it does not."""
    chance = random.Random(1)  # noqa: S311 - repeatable on purpose
    noise = [40 + chance.uniform(-4, 4) for _ in _TIMES]
    leaking = [value + 0.02 * x for x, value in zip(_TIMES, noise, strict=True)]
    flat, grows = (
        trend("x", _TIMES, values, unit="threads", allowed=3) for values in (noise, leaking)
    )
    assert flat.flat
    assert not grows.flat
    assert grows.growth == pytest.approx(8, abs=2)


def test_a_short_run_does_not_take_chance_for_growth() -> None:
    """A few looks at threads that come and go with calls climb by chance; a leak still shows."""
    times = [float(second) for second in range(20)]
    calls = [44, 41, 47, 43, 39, 45, 42, 48, 40, 46, 47, 41, 49, 44, 50, 43, 48, 45, 51, 46]
    by_chance = trend("x", times, calls, unit="threads", allowed=3)
    leaking = [value + 0.7 * x for x, value in zip(times, calls, strict=True)]
    assert by_chance.growth > by_chance.bound
    assert by_chance.flat
    assert not trend("x", times, leaking, unit="threads", allowed=3).flat


def test_warm_up_is_not_judged() -> None:
    """What fills up in the first fifth, and stays, is no growth."""
    values = [min(x, 90.0) for x in _TIMES]
    assert trend("x", _TIMES, values, unit="MiB", allowed=3).flat


def test_too_few_samples_prove_nothing() -> None:
    """A series of which nothing is known is not flat."""
    assert not trend("x", [1, 2], [5, 5], unit="MiB", allowed=3).flat
    assert not trend("x", [], [], unit="MiB", allowed=3).flat


@pytest.fixture
def child() -> Iterator[int]:
    """Run a process that does nothing."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def test_a_process_is_read(child: int) -> None:
    """Descriptors, threads and connections are counted as they come; children are found."""
    before = _now()
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    with (
        Path(os.devnull).open() as _,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as _,
        server.accept()[0],
    ):
        now = _now()
    over.set()
    thread.join()
    assert now.threads == before.threads + 1
    assert now.descriptors == before.descriptors + 4
    assert now.connections == before.connections + 2
    assert now.rss > 1 << 20
    assert child in dict(family(os.getpid())).values()


def test_a_process_that_is_gone() -> None:
    """Nothing is known of it, and nothing breaks."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert usage(process.pid) is None
    assert dict(family(process.pid)) == {"driver": process.pid}


def test_growth_between_two_looks() -> None:
    """More than the tolerance is told, as are processes that came or went."""
    before = Usage(rss=100 << 20, threads=20, descriptors=20, connections=2)
    leaking = Usage(
        rss=before.rss, threads=20, descriptors=21 + TOLERANCE["descriptors"], connections=2
    )
    assert not list(grown({"a": before}, {"a": before}))
    assert [words.split()[0] for words in grown({"a": before}, {"a": leaking})] == ["descriptors"]
    assert list(grown({"a": before}, {"b": before})) == [
        "a ended after the warm-up",
        "b was started after the warm-up",
    ]


def test_spoilt_files_become_whole_again(tmp_path: Path) -> None:
    """However a file is spoilt, restoring brings every byte back."""
    source = tmp_path / "source"
    source.mkdir()
    whole = {CONFIG: b'[{"clusterID": "a", "monitors": ["v2:x"]}]', MAPPING: b'[{"x": {"a": "b"}}]'}
    for name, content in whole.items():
        (source / name).write_bytes(content)
    directory = copied(source, tmp_path / "copy")
    spoiler = Spoiler(directory, random.Random(3))  # noqa: S311 - repeatable on purpose
    changed = 0
    for _ in range(200):
        spoiler.spoil()
        now = {path.name: path.read_bytes() for path in directory.iterdir() if path.name in whole}
        changed += now != whole
        spoiler.restore()
        assert {name: (directory / name).read_bytes() for name in whole} == whole
    assert changed > 150


def _now() -> Usage:
    seen = usage(os.getpid())
    assert seen is not None
    return seen
