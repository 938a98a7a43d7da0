"""What was measured: as a table for people and as JSON for programs. Pure, but for one write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Result:
    """One number and what it was measured under."""

    name: str
    value: float
    unit: str
    conditions: str


def table(results: Sequence[Result]) -> str:
    """Return *results* as aligned lines, numbers to the right."""
    rows = [(r.name, number(r.value), r.unit, r.conditions) for r in results]
    heads = ("what", "value", "unit", "conditions")
    widths = [max(len(row[at]) for row in (heads, *rows)) for at in range(4)]
    lines = [
        f"{name:<{widths[0]}}  {value:>{widths[1]}}  {unit:<{widths[2]}}  {said}".rstrip()
        for name, value, unit, said in (heads, *rows)
    ]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([lines[0], rule, *lines[1:]])


def number(value: float) -> str:
    """Write a value with as many digits as it can be trusted for."""
    if value == int(value):
        return str(int(value))
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def write(results: Sequence[Result], target: Path) -> None:
    """Write a JSON list of ``{name, value, unit, conditions}``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(result) for result in results], indent=1, ensure_ascii=False)
    temporary = target.with_name(target.name + ".new")
    temporary.write_text(text + "\n")
    temporary.rename(target)
