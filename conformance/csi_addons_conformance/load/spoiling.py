# SPDX-License-Identifier: Apache-2.0
"""What goes on beside the calls: configuration files are spoilt, and sockets spoken to in riddles.

Each file is a private copy of a site's. It is spoilt for a moment and whole again, over and over;
what a driver answers meanwhile is judged like everything else.
"""

import json
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

CONFIG: Final = "config.json"
MAPPING: Final = "cluster-mapping.json"
_WHOLE: Final = 1.5
_SPOILT: Final = 0.5
"""Seconds of either."""
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS: Final = b"\0\0\0\4\0\0\0\0\0"
_TEXTS: Final = ("", " ", "\0", "\ud800", "é漢💥", "a" * 65, "x" * 5000, "-", "site-dr1", "0001")
_VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    -1,
    1.5,
    10**30,
    "",
    "x",
    [],
    {},
    [[]],
    [None],
    {"": None},
)
_DEAD: Final = "v2:127.0.0.1:1"
"""Nobody listens here. Always the same address: a cluster more is a process more."""


class Spoiler:
    """Spoils the files of one site, in turn and by chance."""

    def __init__(self, directory: Path, chance: random.Random) -> None:
        self._directory = directory
        self._chance = chance
        self._whole = {name: (directory / name).read_bytes() for name in (CONFIG, MAPPING)}
        self.spoilt = 0
        """How often a file was."""

    def spoil(self) -> None:
        """Write one of the two as it should not be."""
        name = self._chance.choice((CONFIG, MAPPING))
        kind = self._chance.choice((_cut, _garbage, _deep, _wrong_type, _odd_text, _gone))
        content = kind(self._whole[name], self._chance)
        path = self._directory / name
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(content)
        self.spoilt += 1

    def lead_astray(self) -> None:
        """Name a cluster of which nobody is there."""
        config = json.loads(self._whole[CONFIG])
        config[0]["monitors"] = [_DEAD]
        (self._directory / CONFIG).write_text(json.dumps(config))

    def restore(self) -> None:
        """Write both as they were, one of them the way a ConfigMap changes: all at once."""
        for name, content in self._whole.items():
            fresh = self._directory / f".{name}"
            fresh.write_bytes(content)
            fresh.replace(self._directory / name)


def _cut(whole: bytes, chance: random.Random) -> bytes:
    return whole[: chance.randrange(len(whole))]


def _garbage(_: bytes, chance: random.Random) -> bytes:
    return chance.choice((chance.randbytes(200), b"\xff\xfe[]", b"[NaN]", b"1" * 5000, b"nul"))


def _deep(_: bytes, chance: random.Random) -> bytes:
    return chance.choice((b"[", b'{"a":')) * 100_000


def _gone(_: bytes, __: random.Random) -> None:
    return None


def _wrong_type(whole: bytes, chance: random.Random) -> bytes:
    """Put a value of another kind somewhere into the file."""
    content = json.loads(whole)
    container, key = chance.choice(list(_spots(content)))
    container[key] = chance.choice(_VALUES)
    return json.dumps(content).encode()


def _odd_text(whole: bytes, chance: random.Random) -> bytes:
    """Replace a text by a stranger one: the file is understood, and leads elsewhere."""
    content = json.loads(whole)
    texts = [spot for spot in _spots(content) if isinstance(spot[0][spot[1]], str)]
    container, key = chance.choice(texts)
    # a monitor that differs each time would be a new cluster each time
    is_monitor = container[key].startswith("v2:")
    container[key] = _DEAD if is_monitor else chance.choice(_TEXTS)
    return json.dumps(content).encode()


def _spots(content: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place of a document that can be assigned to."""
    keys = range(len(content)) if isinstance(content, list) else list(content)
    for key in keys:
        yield content, key
        if isinstance(content[key], list | dict):
            yield from _spots(content[key])


# --- the socket ---------------------------------------------------------------------------------


def riddle(path: str, chance: random.Random) -> None:
    """Connect to a Unix socket, say something that is no gRPC, and leave."""
    words = chance.choice(
        (
            b"",
            chance.randbytes(chance.randrange(1, 2000)),
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            _PREFACE[: chance.randrange(1, len(_PREFACE))],
            _PREFACE + chance.randbytes(500),
            _PREFACE + _SETTINGS + _frame(chance),
            b"\0" * 65536,
        )
    )
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.settimeout(1)
        client.connect(path)
        client.sendall(words)
        if chance.random() < 0.5:
            client.recv(4096)


def _frame(chance: random.Random) -> bytes:
    """Return one HTTP/2 frame with a head that holds and a body that does not."""
    body = chance.randbytes(chance.randrange(60))
    head = struct.pack(">I", len(body))[1:] + bytes((chance.randrange(12), chance.randrange(64)))
    return head + struct.pack(">I", chance.randrange(2**31)) + body


# --- both, side by side with calls ----------------------------------------------------------------


class Trouble:
    """Everything that goes on beside the calls, and how often it happened."""

    def __init__(self, directories: Sequence[Path], sockets: Sequence[str], seed: int) -> None:
        self.spoilers = [
            Spoiler(directory, random.Random(seed + number))  # noqa: S311 - repeatable on purpose
            for number, directory in enumerate(directories)
        ]
        self._sockets = sockets
        self._chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self.riddles = 0

    @property
    def counts(self) -> Mapping[str, int]:
        """How often each kind happened."""
        spoilt = sum(spoiler.spoilt for spoiler in self.spoilers)
        return {"files spoilt": spoilt, "riddles on the socket": self.riddles}

    @contextmanager
    def around(self) -> Iterator[None]:
        """Make trouble for the length of a block; the files are whole again after it."""
        over = threading.Event()
        threads = [
            threading.Thread(target=work, args=(over,)) for work in (self._spoil, self._riddle)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()
            self._each(Spoiler.restore)

    @contextmanager
    def astray(self) -> Iterator[None]:
        """Lead every driver to a cluster of which nobody is there, for the length of a block."""
        self._each(Spoiler.lead_astray)
        try:
            yield
        finally:
            self._each(Spoiler.restore)

    def _spoil(self, over: threading.Event) -> None:
        while not over.wait(_WHOLE):
            self._each(Spoiler.spoil)
            over.wait(_SPOILT)
            self._each(Spoiler.restore)

    def _riddle(self, over: threading.Event) -> None:
        while not over.wait(0.1):
            riddle(self._chance.choice(list(self._sockets)), self._chance)
            self.riddles += 1

    def _each(self, act: Callable[[Spoiler], None]) -> None:
        for spoiler in self.spoilers:
            with suppress(FileNotFoundError):
                act(spoiler)


def copied(source: Path, target: Path) -> Path:
    """Copy a site's configuration, so that it may be spoilt."""
    target.mkdir(parents=True)
    for name in (CONFIG, MAPPING):
        (target / name).write_bytes((source / name).read_bytes())
    return target
