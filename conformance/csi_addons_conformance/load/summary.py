# SPDX-License-Identifier: Apache-2.0
"""A soak in Markdown: calls, codes, latencies, and what grew."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from csi_addons_conformance.load.slopes import WARM_UP, Trend
from csi_addons_conformance.load.tally import Tally, percentile

_READING: Final = (
    f"Growth is that of a straight line by least squares after the first {WARM_UP:.0%} of the run; "
    "noise is twice its standard error. Growth beyond what is allowed counts unless it is noise, "
    "and always when it is more than twice what is allowed."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What there is to tell when a soak is over."""

    tally: Tally
    trends: Sequence[Trend]
    findings: Sequence[str]
    seconds: float
    seed: int
    volumes: int
    callers: int

    @property
    def headline(self) -> str:
        """The run in a line."""
        tally = self.tally
        return (
            f"{tally.made} calls in {self.seconds:.0f} s, {tally.made / self.seconds:.0f} a "
            f"second, {self.callers} callers on {self.volumes} volumes of two sites; "
            f"{tally.failures / max(1, tally.made):.1%} not answered OK, "
            f"{tally.failed_by_design / max(1, tally.made):.1%} made to fail; seed {self.seed}"
        )

    @property
    def markdown(self) -> str:
        """Everything, as tables."""
        return "\n".join(
            (
                self.headline,
                "",
                *_table(("method", "calls", "codes", "p50", "p99"), self._methods()),
                "",
                *_table(("what callers did", "answers"), self._kinds()),
                "",
                *_table(
                    ("measure", "mean", "growth", "noise", "allowed", "samples", "flat"),
                    self._trends(),
                ),
                "",
                _READING,
                "",
                *(f"* {finding}" for finding in self.findings or ("Nothing was found wrong.",)),
                "",
            )
        )

    def _methods(self) -> Iterator[tuple[str, ...]]:
        for method, ordered in self.tally.latencies.items():
            codes = {code: n for (name, code), n in self.tally.codes.items() if name == method}
            yield (
                method,
                str(len(ordered)),
                ", ".join(f"{code} {codes[code]}" for code in sorted(codes)),
                f"{percentile(ordered, 0.5) * 1000:.1f} ms",
                f"{percentile(ordered, 0.99) * 1000:.1f} ms",
            )

    def _kinds(self) -> Iterator[tuple[str, ...]]:
        for kind in sorted({kind for kind, _ in self.tally.kinds}):
            codes = {code: n for (name, code), n in self.tally.kinds.items() if name == kind}
            yield kind, ", ".join(f"{code} {codes[code]}" for code in sorted(codes))

    def _trends(self) -> Iterator[tuple[str, ...]]:
        for each in self.trends:
            yield (
                each.name,
                f"{each.mean:.1f} {each.unit}",
                f"{each.growth:+.2f}",
                f"{each.noise:.2f}",
                f"{each.bound:.2f}",
                str(each.samples),
                "yes" if each.flat else "**no**",
            )


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield _row(head)
    yield _row(("---",) * len(head))
    yield from map(_row, rows)


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
