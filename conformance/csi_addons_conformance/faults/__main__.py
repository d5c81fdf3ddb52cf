# SPDX-License-Identifier: Apache-2.0
"""``python -m csi_addons_conformance.faults``: the fault matrix, in a network of its own."""

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import Final

from rich.console import Console

from csi_addons_conformance.case import BOTH
from csi_addons_conformance.faults import namespace, report
from csi_addons_conformance.faults.matrix import CALL_TIMEOUT, Storm, strike
from csi_addons_conformance.faults.weather import FAULTS, thaw_all
from csi_addons_conformance.staging import add_arguments, staged

_BOUNDS: Final = f" --call-timeout {CALL_TIMEOUT} --promote-wait 12"
_SHORT: Final = ("OSD frozen", "mon killed")


def main() -> None:
    """Let the faults strike, one after the other; exit code 1 when a cell is not as it must be."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = _parser().parse_args()
    if not options.driver:
        sys.exit("faults: --driver COMMAND is missing: its bounds must be known")
    options.driver += _BOUNDS
    chosen = [
        each
        for each in FAULTS
        if (not options.select or any(word in each.name for word in options.select))
        and (not options.short or each.name in _SHORT)
    ]
    if any(each.drops_packets for each in chosen):
        namespace.enter()
    modes = tuple(options.mode or (BOTH[:1] if options.short else BOTH))
    console = Console(width=None if sys.stdout.isatty() else 200)
    began = time.monotonic()
    storms: list[Storm] = []
    with staged(options) as stage:
        try:
            for fault in chosen:
                storms.append(strike(stage, fault, modes))
                console.print(report.line(storms[-1], time.monotonic() - began), highlight=False)
        finally:
            thaw_all(stage.here)
    seconds = time.monotonic() - began
    report.show(storms, console, seconds)
    if options.markdown:
        report.write_markdown(storms, options.markdown, seconds)
    if options.json:
        report.write_json(storms, options.json)
    if options.plot:
        report.draw(storms, options.plot)
    sys.exit(report.failed(storms))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m csi_addons_conformance.faults")
    add_arguments(parser)
    add = parser.add_argument
    add("--select", action="append", metavar="WORD", help="only faults whose name has this word")
    add("--mode", action="append", choices=BOTH, help="one mode only")
    add("--short", action="store_true", help=f"{' and '.join(_SHORT)} in snapshot mode alone")
    add("--markdown", type=Path, metavar="FILE", help="write Markdown")
    add("--json", type=Path, metavar="FILE", help="write every cell")
    add("--plot", type=Path, metavar="FILE", help="draw heat maps (needs matplotlib)")
    return parser


if __name__ == "__main__":
    main()
