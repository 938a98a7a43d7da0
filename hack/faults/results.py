"""What came of the pairs: one line each, as JSON, and as the table of the docs (pure)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from faults.matrix import FAULTS, STEPS, Fault, Meaningless, Pair, Step, Tried

GOES_ON: Final = "goes on"
RESTARTED: Final = "restarted"
WAITS: Final = "waits"
RETURNED: Final = "sleeps on"
SIGNS: Final = {GOES_ON: "✓", RESTARTED: "↻", WAITS: "…", RETURNED: "☾"}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One pair that was tried."""

    fault: str
    step: str
    outcome: str
    """A key of :data:`SIGNS`, or empty if it did not come that far."""
    seconds: float
    failures: list[str] = field(default_factory=list)
    """What is not as it must be, leaks included; empty if it survived."""
    told: list[str] = field(default_factory=list)
    """What was said of a loss."""

    @property
    def has_survived(self) -> bool:
        """Whether all was as it must be."""
        return not self.failures

    def __str__(self) -> str:
        what = self.outcome if self.has_survived else "FAILED " + "; ".join(self.failures)
        told = f" ({self.told[-1]:.100})" if self.told and self.has_survived else ""
        return f"{self.fault}@{self.step}: {what}{told}"


def summary(results: Sequence[Result], *, stage: str, conditions: str) -> dict[str, Any]:
    """Return everything as plain JSON values."""
    return {
        "stage": stage,
        "conditions": conditions,
        "tried": len(results),
        "survived": sum(result.has_survived for result in results),
        "leaks": sum("leak" in text for result in results for text in result.failures),
        "results": [asdict(result) for result in results],
    }


def write(value: dict[str, Any], file: Path) -> None:
    """Write *value* as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=1) + "\n")


def read(file: Path) -> list[Result]:
    """Return the results in *file*; none if it is not there."""
    if not file.exists():
        return []
    return [Result(**each) for each in json.loads(file.read_text())["results"]]


def without(found: Iterable[Result], pairs: Iterable[Pair]) -> list[Result]:
    """Return those of *found* that are not of *pairs*."""
    again = {(pair.fault.name, str(pair.step)) for pair in pairs}
    return [result for result in found if (result.fault, result.step) not in again]


def untried(pairs: Iterable[Pair], found: Iterable[Result]) -> list[Pair]:
    """Return those of *pairs* that none of *found* is of."""
    known = {(result.fault, result.step) for result in found}
    return [pair for pair in pairs if (pair.fault.name, str(pair.step)) not in known]


def table(
    results: Iterable[Result],
    *,
    faults: Sequence[Fault] = FAULTS,
    steps: Sequence[Step] = STEPS,
) -> str:
    """Return faults × steps as Markdown."""
    found = {(result.fault, result.step): result for result in results}
    lines = [
        "| | " + " | ".join(str(step) for step in steps) + " |",
        "| --- |" + " --- |" * len(steps),
    ]
    for fault in faults:
        cells = [_cell(Pair(fault=fault, step=step), found) for step in steps]
        lines.append(f"| {fault.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(pair: Pair, found: dict[tuple[str, str], Result]) -> str:
    if isinstance(pair.plan, Meaningless):
        return "–"
    result = found.get((pair.fault.name, str(pair.step)))
    if result is None:
        return ""
    return SIGNS[result.outcome] if result.has_survived else "✗"


def reasons(faults: Sequence[Fault] = FAULTS) -> str:
    """Return what each fault is, and why some pairs are not tried or may cost the memory."""
    lines = []
    for fault in faults:
        why: dict[str, list[str]] = {}
        for step in STEPS:
            plan = fault.plan(step)
            if isinstance(plan, Meaningless):
                why.setdefault(f"not tried: {plan.why}", []).append(step)
            elif isinstance(plan, Tried) and plan.why:
                why.setdefault(plan.why, []).append(step)
        told = "; ".join(
            text if len(steps) == len(STEPS) else f"{text} ({', '.join(steps)})"
            for text, steps in why.items()
        )
        lines.append(
            f"- **{fault.name}**: {fault.what}."
            + (f" {told[0].upper()}{told[1:]}." if told else "")
        )
    return "\n".join(lines)
