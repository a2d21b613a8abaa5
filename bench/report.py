"""What was measured, and whether it reaches what it should: as text and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_TIE = 0.01

Sample = dict[str, float]  # metric -> value


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure to reach: `value` may be `limit` at most, or where `least` at least; a hundredth is a tie."""

    what: str
    value: float
    limit: float
    unit: str = "x"
    least: bool = False

    @property
    def reached(self) -> bool:
        return self.by >= -_TIE

    @property
    def by(self) -> float:
        """How far the value is from the limit, as a part of the limit; above 0 is better than asked."""
        difference = self.value - self.limit if self.least else self.limit - self.value
        return difference / self.limit

    def __str__(self) -> str:
        word = "reached    " if self.reached else "FALLS SHORT"
        side = "at least" if self.least else "at most"
        return (
            f"{word} {self.what}: {_number(self.value)}{self.unit}, {side} {_number(self.limit)}{self.unit} asked "
            f"({abs(self.by):.0%} {'to spare' if self.by >= 0 else 'missing'})"
        )


@dataclass(slots=True)
class Row:
    """One row of the table: `samples` of each server, a sample a round, taken in turn."""

    title: str
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def median(self, server: str, metric: str) -> float:
        """Return a server's median over the rounds."""
        return statistics.median(sample[metric] for sample in self.samples[server])

    def least(self, server: str, metric: str) -> float:
        """Return the smallest of the rounds: for what others on the machine can only make longer."""
        return min(sample[metric] for sample in self.samples[server])

    def ratio(self, metric: str, server: str, other: str) -> float:
        """Return the median of the rounds' ratios: what drifts from round to round drifts for both."""
        pairs = zip(self.samples[server], self.samples[other], strict=True)
        return statistics.median(one[metric] / two[metric] for one, two in pairs)

    def __str__(self) -> str:
        metrics = list(dict.fromkeys(key for rounds in self.samples.values() for key in rounds[0]))
        lines = [self.title]
        if metrics:
            lines.append(f"  {'':34}" + "".join(f"{metric:>18}" for metric in metrics))
        for server, rounds in self.samples.items():
            cells = [_number(self.median(server, metric)) if metric in rounds[0] else "" for metric in metrics]
            lines.append(f"  {server:34}" + "".join(f"{cell:>18}" for cell in cells))
        lines += [f"  {note}" for note in self.notes]
        lines += [f"  {verdict}" for verdict in self.verdicts]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "samples": self.samples,
            "medians": {
                server: {metric: self.median(server, metric) for metric in rounds[0]}
                for server, rounds in self.samples.items()
            },
            "verdicts": [
                {
                    "what": verdict.what,
                    "value": verdict.value,
                    "limit": verdict.limit,
                    "unit": verdict.unit,
                    "least": verdict.least,
                    "reached": verdict.reached,
                }
                for verdict in self.verdicts
            ],
            "notes": self.notes,
        }


def summary(rows: Sequence[Row]) -> str:
    """Return one line a verdict and how many are reached."""
    verdicts = [(row, verdict) for row in rows for verdict in row.verdicts]
    reached = sum(verdict.reached for _, verdict in verdicts)
    lines = ["", "VERDICTS"]
    lines += [f"  {verdict}   [{row.title}]" for row, verdict in verdicts]
    lines.append(f"  {reached} of {len(verdicts)} reached")
    return "\n".join(lines)


def as_json(rows: Sequence[Row], machine: dict[str, Any]) -> str:
    """Return everything for a program: rows with every sample, and what they were taken on."""
    return json.dumps({"schema": 1, "machine": machine, "rows": [row.as_dict() for row in rows]}, indent=1)


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"
