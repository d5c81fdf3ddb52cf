# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.parsers``: coverage-guided fuzzing of all that reads what others wrote.

Atheris mutates good input and keeps what reaches new branches, which chance alone does not find.
Each target runs in a process of its own; exit code 1 when one of them found something.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import atheris

from tests.parsers.targets import SEEDS, TARGETS

_SIDE_BY_SIDE: Final = 2
_MOST_BYTES: Final = 4096
_SLACK: Final = 60
"""Seconds that a process may take beyond its time, to load and to end."""
_SHOWN: Final = 4000
"""Characters of what a target printed last that are shown when it found something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one target."""

    target: str
    executions: int
    branches: int
    """Edges and comparisons of the code that were reached."""
    finding: str
    """Empty when there is none."""


def main() -> None:
    """Fuzz all targets, or be the process of one."""
    options = _parser().parse_args()
    if options.target:
        _be(options.target, options.arguments)
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as executor:
        results = list(executor.map(lambda each: _fuzz(each, options.seconds), TARGETS))
    for each in results:
        mark = "✘" if each.finding else "✔"
        print(f"{mark} {each.target}: {each.executions} inputs, {each.branches} branches reached")
        if each.finding:
            print(each.finding)
    found = sum(bool(each.finding) for each in results)
    executed = sum(each.executions for each in results)
    print(f"{executed} inputs to {len(results)} parsers, {found} with findings")
    sys.exit(bool(found))


def _fuzz(target: str, seconds: int) -> Result:
    """Run one target in a process of its own, for some seconds."""
    with tempfile.TemporaryDirectory(prefix="parsers-") as directory:
        corpus = Path(directory, "corpus")
        corpus.mkdir()
        for number, seed in enumerate(SEEDS[target]):
            (corpus / str(number)).write_bytes(seed)
        limits = (f"-max_total_time={seconds}", f"-max_len={_MOST_BYTES}", "-timeout=10")
        argv = [sys.executable, "-m", "tests.parsers", "--target", target, "--", *limits]
        argv += [f"-artifact_prefix={directory}/", str(corpus)]
        process = subprocess.run(
            argv, capture_output=True, text=True, timeout=seconds + _SLACK, check=False
        )
    printed = process.stderr + process.stdout
    done = re.search(r"^Done (\d+) ", printed, re.MULTILINE)
    reached = re.findall(r" ft: (\d+)", printed)
    sound = process.returncode == 0 and done is not None
    return Result(
        target=target,
        executions=int(done[1]) if done else 0,
        branches=int(reached[-1]) if reached else 0,
        finding="" if sound else printed[-_SHOWN:],
    )


def _be(target: str, arguments: list[str]) -> None:
    atheris.Setup([sys.argv[0], *arguments], TARGETS[target])
    atheris.Fuzz()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.parsers")
    parser.add_argument("--seconds", type=int, default=60, help="for each parser (%(default)s)")
    parser.add_argument("--target", choices=TARGETS, help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
