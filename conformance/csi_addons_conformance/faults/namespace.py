# SPDX-License-Identifier: Apache-2.0
"""A network namespace of our own, in which packets can be dropped without harm to anybody."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_INSIDE = "CSI_ADDONS_CONFORMANCE_NAMESPACE"
_TABLE = ("inet", "faults")


def enter() -> None:
    """Run this program again in a new network namespace, unless it runs in one already.

    Everything that it starts lives in there, too: lab, drivers and callers.
    """
    if os.environ.get(_INSIDE):
        _run("ip", "link", "set", "lo", "up")
        return
    module = sys.modules["__main__"].__spec__.name.removesuffix(".__main__")  # type: ignore[union-attr]
    os.environ[_INSIDE] = "1"
    os.execvp("unshare", ["unshare", "--net", sys.executable, "-m", module, *sys.argv[1:]])  # noqa: S606, S607


@contextmanager
def dropped(ports: set[int]) -> Iterator[None]:
    """Drop, not refuse, whatever goes to or comes from these TCP ports."""
    if not os.environ.get(_INSIDE):
        raise RuntimeError("packets are only dropped in a namespace of our own: call enter() first")
    listed = "{" + ",".join(map(str, sorted(ports))) + "}"
    _run("nft", "add", "table", *_TABLE)
    _run("nft", "add", "chain", *_TABLE, "input", "{ type filter hook input priority 0 ; }")
    for side in ("dport", "sport"):
        _run("nft", "add", "rule", *_TABLE, "input", "tcp", side, listed, "drop")
    try:
        yield
    finally:
        _run("nft", "delete", "table", *_TABLE)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, timeout=10)
