# SPDX-License-Identifier: Apache-2.0
"""One shell that a page's commands are typed into, and what must come back."""

import os
import re
import signal
import subprocess
import threading
import uuid
from pathlib import Path
from typing import Final, Self

_PATIENCE: Final = 400
"""Seconds for one command: some wait for a snapshot that comes each minute, on a busy machine."""
_ANYTHING: Final = "…"
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UNRELEASED: Final = re.compile(r"(?<=\d)\.dev\d+\+\w+(\.\w+)?")
"""What a version has behind it between two releases."""
_NUMBER: Final = re.compile(r'(?<="call_id":")[\w-]+|\d[\dT:.-]*Z?')


class Shell:
    """A bash in a directory, with the directories of the page replaced by the test's own."""

    def __init__(self, where: Path, places: dict[str, str]) -> None:
        self._places = places
        self._bash = subprocess.Popen(
            ["bash", "--norc"],  # noqa: S607 - the reader's shell
            cwd=where,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def type(self, command: str) -> tuple[int, str]:
        """Run a command, and return its exit code and output.

        Raises:
            TimeoutError: it does not end.
        """
        for place, ours in self._places.items():
            command = command.replace(place, ours)
        end = f"end-{uuid.uuid4()}"
        assert self._bash.stdin
        assert self._bash.stdout
        self._bash.stdin.write(f"{{ {command}\n}} </dev/null; code=$?\necho; echo {end} $code\n")
        self._bash.stdin.flush()
        late = threading.Timer(_PATIENCE, self.close)
        late.start()
        output = ""
        try:
            for line in self._bash.stdout:
                if line.startswith(end):
                    return int(line.split()[1]), self._as_on_the_page(output.rstrip())
                output += line
        finally:
            late.cancel()
        raise TimeoutError(f"{command!r} does not end, or ended the shell:\n{output}")

    def _as_on_the_page(self, output: str) -> str:
        for place, ours in self._places.items():
            output = output.replace(ours, place)
        return output

    def close(self) -> None:
        """End the shell and all that it started in its own session."""
        with self._bash:
            if self._bash.poll() is None:
                os.killpg(self._bash.pid, signal.SIGTERM)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the shell."""
        self.close()


def alike(shown: tuple[str, ...], output: str) -> bool:
    """Tell whether an output is what a page shows, but for numbers, ids, times and ``…``."""
    pattern = ""
    for line in shown:
        if line.strip() == _ANYTHING:
            pattern += r"(?:.*\n)*"
        else:
            pattern += ".*".join(map(re.escape, _plain(line).split(_ANYTHING))) + r"\n"
    lines = [_plain(line) + "\n" for line in output.splitlines()]
    return re.fullmatch(pattern, "".join(lines)) is not None


def _plain(line: str) -> str:
    return _NUMBER.sub("0", _UUID.sub("0", _UNRELEASED.sub("", line))).rstrip()
