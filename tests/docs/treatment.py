# SPDX-License-Identifier: Apache-2.0
"""How each command of the pages is tested; one that nothing tests is an error.

The convention, which readers see, too: ``$`` is typed on the machine of the page, and is run;
``cluster$``, ``dr1$``, ``dr2$`` and ``hub$`` are typed where that Kubernetes cluster is reached,
and are parsed by the real kubectl, against no cluster; ``ceph$`` is typed where Ceph's
administrator is. A script that begins with the comment ``# needs …`` is run by nobody.
"""

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from pages import PAGES, ROOT, Block, Command, blocks, commands

STORIES: Final = tuple(
    ROOT / page
    for page in (
        "docs/tutorial/first-failover.md",
        "docs/tutorial/losing-a-site.md",
        "docs/how-to/grpcurl.md",
    )
)
"""Pages whose commands are run in their order, in one shell, with two real Ceph sites."""
CLUSTERS: Final = frozenset({"cluster", "dr1", "dr2", "hub"})
RUNBOOKS: Final = ("planned-failover", "site-loss", "split-brain", "failback")
ACTED: Final = {
    r"kubectl patch volumereplication data --type merge --patch '(.*)'": "patch",
    r"kubectl wait volumereplication data --for=jsonpath='{.status.state}'=(\w+)": "await_state",
    r"kubectl wait volumereplication data --for=condition=Degraded=false": "await_ready",
    r"kubectl get volumereplication data -o jsonpath='{.status.lastSyncTime}'": "await_sync",
    r"kubectl scale deployment app --replicas=(\d)": "scale",
    r"kubectl -n rook-ceph exec deploy/rook-ceph-tools -- rbd (.*)": "rbd",
}
"""What of the runbooks is acted without Kubernetes, and as what: see test_runbooks.py."""
_NEEDS: Final = re.compile(r"# needs (?P<what>[^:]+)")
ELSEWHERE: Final = {
    "scripts/image": "tests/image builds and unpacks the image with it",
    "RELEASE=bookworm-slim scripts/image": "by hand: another release than tests/image builds",
    "ENGINE=podman scripts/image": "by hand: another engine than tests/image finds",
    "scripts/sbom": "tests/image reads what it writes",
    ".venv/bin/pytest tests/image": "is a test itself: tox env container",
    "IMAGE_DIR=/tmp/image .venv/bin/pytest tests/image": "is a test itself: tox env container",
    "make test": "a row of the menu itself: CI runs it, and maintainers the releases",
    "make demo RELEASE=": "a row of the menu itself, on another release",
    "scripts/in-release": "make RELEASE=… is made of it",
    "pip install ./conformance": "scripts/setup installs it so, but editable",
    "csi-addons-conformance --driver 'your-driver": "tox env contract, with this driver",
    "make bench": "a row of the menu itself: maintainers run it, and write its table down",
    ".venv/bin/python -m benchmarks --driver 'your-driver": "tox env bench, with this driver",
}
"""Commands that other tests run, by their beginning, and which."""


class How(StrEnum):
    """What becomes of a command."""

    RUN = "run, in a lab of two real Ceph sites"
    CEPH = "run, as the administrator of a real Ceph site"
    CLONE = "run, in a clone without a cluster"
    PARSED = "needs Kubernetes: parsed by kubectl"
    ACTED = "needs Kubernetes: parsed by kubectl, and acted on two real Ceph sites"
    NOT = "not run: needs "
    ELSEWHERE = "elsewhere: "


def treatment(command: Command) -> str:
    """Say how a command is tested.

    Raises:
        LookupError: by nothing.
    """
    if command.prompt in CLUSTERS:
        runbook = command.block.page.stem in RUNBOOKS
        acted = runbook and any(re.search(each, command.text) for each in ACTED)
        return How.ACTED if acted else How.PARSED
    if command.prompt == "ceph":
        return How.CEPH
    if command.prompt:
        raise LookupError(f"{command.block.name}: no such prompt: {command.prompt}$")
    needs = _NEEDS.match(command.text)
    if needs:
        return How.NOT + needs["what"]
    if command.block.page in STORIES:
        return How.RUN
    if re.match(r"mkdir |kubectl kustomize ", command.text):
        return How.CLONE
    lines = [line for line in command.text.splitlines() if line and not line.startswith("#")]
    found = [how for line in lines for how in (_elsewhere(line),) if how]
    if len(found) < len(lines):
        raise LookupError(f"{command.block.name}: nothing tests {command.text!r}")
    return How.ELSEWHERE + "; ".join(dict.fromkeys(found))


def _elsewhere(line: str) -> str:
    matching = [how for start, how in ELSEWHERE.items() if line.startswith(start)]
    return matching[0] if matching else ""


def every_command() -> Iterator[Command]:
    """Return every command of every page."""
    for page in PAGES:
        for block in blocks(page):
            yield from commands(block)


def every_block(*languages: str) -> Iterator[Block]:
    """Return every block of these languages of every page."""
    for page in PAGES:
        yield from (block for block in blocks(page) if block.language in languages)
