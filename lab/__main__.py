# SPDX-License-Identifier: Apache-2.0
"""``python -m lab``: start, look at and end two real Ceph sites."""

import argparse
import json
import re
import signal
import sys
from pathlib import Path

from lab import DAEMONS, Lab, LabError

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def main() -> int:
    """Run one command; 1 when the lab cannot do it."""
    arguments = _parser().parse_args()
    try:
        arguments.run(arguments)
    except LabError as exc:
        print(f"lab: {exc}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("directory", metavar="DIR", type=Path, help="where the lab lives")
        sub.set_defaults(run=run)
        return sub

    up = command("up", _up, "start two sites, dr1 and dr2, mirrored both ways")
    up.add_argument("--pool", default="replicapool", help="the mirrored pool (%(default)s)")
    up.add_argument("--osds", type=int, choices=(1, 2), default=1, help="on each (%(default)s)")
    volume = command("volume", _volume, "make a volume as ceph-csi would and print its handle")
    volume.add_argument("site", choices=("dr1", "dr2"))
    volume.add_argument("--size", type=_size, default="64M", help="such as 64M (%(default)s)")
    secrets = command("secrets", _secrets, "print what calls to a site's driver need, as JSON")
    secrets.add_argument("site", choices=("dr1", "dr2"))
    command("status", _status, "show daemons, health and mirrored images")
    for name, run, text in (
        ("kill", _kill, "lose a site, or some of its daemons; or freeze and thaw them"),
        ("start", _start, "bring a site, or some of its daemons, back"),
    ):
        sub = command(name, run, text)
        sub.add_argument("site", choices=("dr1", "dr2"))
        sub.add_argument("--daemon", action="append", choices=DAEMONS, help="all by default")
        if name == "kill":
            sub.add_argument("--signal", choices=("STOP", "CONT"), help="freeze or thaw instead")
    command("down", _down, "end every daemon")
    return parser


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMG])", text)
    if match is None or not int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 64M (K, M or G)")
    return int(match[1]) * _UNITS[match[2]]


def _say(text: str) -> None:
    print(text, flush=True)


def _up(arguments: argparse.Namespace) -> None:
    lab = Lab.up(arguments.directory, pool=arguments.pool, osds=arguments.osds, say=_say)
    _say(f"up: {lab.directory / 'lab.json'} describes it")


def _volume(arguments: argparse.Namespace) -> None:
    _say(Lab.load(arguments.directory).make_volume(arguments.site, arguments.size).handle)


def _secrets(arguments: argparse.Namespace) -> None:
    _say(json.dumps(Lab.load(arguments.directory).sites[arguments.site].secrets))


def _status(arguments: argparse.Namespace) -> None:
    for site in Lab.load(arguments.directory).sites.values():
        pids = site.pids()
        daemons = ", ".join(f"{name} {pid or 'not running'}" for name, pid in pids.items())
        _say(f"{site.name}: {daemons}")
        if pids["mon"] is None:
            continue
        _say(f"  {site.ceph('health').strip()}, pool {site.pool} (id {site.pool_id})")
        listed = site.rbd("mirror", "pool", "status", site.pool, "--verbose", "--format", "json")
        for image in json.loads(listed).get("images", []):
            _say(f"  {image['name']}: {image['state']}, {image['description']}")


def _kill(arguments: argparse.Namespace) -> None:
    site = Lab.load(arguments.directory).sites[arguments.site]
    if not arguments.signal:
        site.kill(*arguments.daemon or ())
        return
    for daemon in arguments.daemon or DAEMONS:
        site.signal(daemon, signal.Signals[f"SIG{arguments.signal}"])


def _start(arguments: argparse.Namespace) -> None:
    Lab.load(arguments.directory).sites[arguments.site].start(*arguments.daemon or ())


def _down(arguments: argparse.Namespace) -> None:
    Lab.load(arguments.directory).down()


if __name__ == "__main__":
    sys.exit(main())
