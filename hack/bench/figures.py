"""Figures: percentiles, goals, and how both are told to people and programs. Pure, but one write.

A missed goal is a fact about a machine and a version, not a defect of the benchmark: it is said
aloud, in the table and after it, and changes no exit status.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.errors import BenchError

STATISTICS: Final = ("p50", "p90", "p99", "mean")
"""What a goal can be set for."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How one quantity was distributed over its runs."""

    p50: float
    p90: float
    p99: float
    mean: float
    least: float
    most: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of *values*. Raises BenchError if there is none."""
        if not values:
            raise BenchError("no run of it was measured")
        return cls(
            p50=_rounded(percentile(values, 50)),
            p90=_rounded(percentile(values, 90)),
            p99=_rounded(percentile(values, 99)),
            mean=_rounded(math.fsum(values) / len(values)),
            least=_rounded(min(values)),
            most=_rounded(max(values)),
            n=len(values),
        )


@dataclass(frozen=True, kw_only=True)
class Result:
    """One measured quantity, what it should be, and what it is beside."""

    name: str
    unit: str
    spread: Spread
    conditions: str
    goal: Mapping[str, float] = field(default_factory=dict)
    """Statistic to the highest value that meets the goal; empty: there is none."""
    at_least: Mapping[str, float] = field(default_factory=dict)
    """Statistic to the lowest value that meets the goal."""
    baseline: Mapping[str, Spread] = field(default_factory=dict)
    """The same work by other means in the same run, in the same unit."""
    parts: Mapping[str, Spread] = field(default_factory=dict)
    """What the quantity is made of, as far as it was told, in the same unit."""
    wanted: int = 0
    """How many runs were planned; more than ``spread.n`` if time or others cut it short."""

    def as_json(self) -> dict[str, Any]:
        """Return the entry of the results file."""
        return {
            "name": self.name,
            "unit": self.unit,
            **asdict(self.spread),
            "goal": dict(self.goal) or None,
            "at_least": dict(self.at_least) or None,
            "baseline": {name: asdict(spread) for name, spread in self.baseline.items()} or None,
            "parts": {name: asdict(spread) for name, spread in self.parts.items()} or None,
            "conditions": self.conditions,
        }


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of *values* that at least *percent* of them do not exceed.

    By nearest rank: what is returned was measured, not interpolated. Fewer than 100 values have
    their largest as their 99th percentile.
    """
    ordered = sorted(values)
    rank = math.ceil(len(ordered) * percent / 100)
    return ordered[max(rank, 1) - 1]


def misses(results: Sequence[Result]) -> list[str]:
    """Return one sentence for each goal that was missed."""
    found = []
    for result in results:
        for statistic, limit in result.goal.items():
            if (value := _statistic(result.spread, statistic)) > limit:
                found.append(_missed(result, statistic, value, limit, "over"))
        for statistic, limit in result.at_least.items():
            if (value := _statistic(result.spread, statistic)) < limit:
                found.append(_missed(result, statistic, value, limit, "under"))
    return found


def _missed(result: Result, statistic: str, value: float, limit: float, side: str) -> str:
    far = abs(value / limit - 1) * 100
    unit = f" {result.unit}" if result.unit else ""
    return (
        f"{result.name}: {statistic} {number(value)}{unit}, goal {number(limit)}{unit} "
        f"({far:.0f} % {side})"
    )


def shortfalls(results: Sequence[Result]) -> list[str]:
    """Return one sentence for each quantity that has fewer runs than planned."""
    return [
        f"{result.name}: {result.spread.n} runs instead of {result.wanted}"
        for result in results
        if result.spread.n < result.wanted
    ]


def verdict(results: Sequence[Result]) -> str:
    """Return how the run did against its goals, in lines."""
    missed = misses(results)
    count = sum(len(result.goal) + len(result.at_least) for result in results)
    lines = [f"{count - len(missed)} of {count} goals met"]
    lines += [f"MISSED  {sentence}" for sentence in missed]
    lines += [f"SHORT   {sentence}" for sentence in shortfalls(results)]
    return "\n".join(lines)


def table(results: Sequence[Result]) -> str:
    """Return *results* as aligned lines; baselines and parts are lines below theirs."""
    rows: list[tuple[str, ...]] = [("what", "unit", "p50", "p90", "p99", "mean", "n", "goal")]
    for result in results:
        rows.append((result.name, result.unit, *_cells(result.spread), _goal(result)))
        rows += [
            (f"  {label} {name}", "", *_cells(spread), "")
            for label, spreads in (("of which", result.parts), ("beside:", result.baseline))
            for name, spread in spreads.items()
        ]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        "  ".join(
            f"{cell:<{width}}" if at < 2 else f"{cell:>{width}}"
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def number(value: float) -> str:
    """Write a value with as many digits as it can be trusted for."""
    if value == int(value):
        return str(int(value))
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def so_far(values: Sequence[float], unit: str) -> str:
    """Return the median of *values* for a line of progress; nothing while there is none."""
    return f", median {number(percentile(values, 50))} {unit}" if values else ""


def write(results: Sequence[Result], target: Path) -> None:
    """Write the results file, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([result.as_json() for result in results], indent=1, ensure_ascii=False)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.write_text(text + "\n")
    temporary.rename(target)


def _statistic(spread: Spread, name: str) -> float:
    if name not in STATISTICS:
        raise BenchError(f"no goal can be set for {name!r}, only for {', '.join(STATISTICS)}")
    return float(getattr(spread, name))


def _goal(result: Result) -> str:
    said = []
    for sign, goals in (("≤", result.goal), ("≥", result.at_least)):
        for statistic, limit in goals.items():
            value = _statistic(result.spread, statistic)
            is_missed = value > limit if goals is result.goal else value < limit
            said.append(f"{statistic} {sign} {number(limit)}{' MISSED' if is_missed else ''}")
    return ", ".join(said)


def _cells(spread: Spread) -> tuple[str, ...]:
    values = (spread.p50, spread.p90, spread.p99, spread.mean)
    return (*(number(value) for value in values), str(spread.n))


def _rounded(value: float) -> float:
    """Keep microseconds of milliseconds, and bytes of megabytes as far as anybody cares."""
    return round(value, 3)
