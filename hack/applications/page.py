"""``docs/workloads.md``, written from rows (pure, but for the template beside it)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from applications.entry import IDLE, Entry, StaysAwake
from applications.trial import CYCLES, STAY_SECONDS, Row

TEMPLATE: Final = Path(__file__).with_name("page.md")


def write(entries: Sequence[Entry], rows: Mapping[str, Row], conditions: Iterable[str]) -> str:
    """Return the page. Raises KeyError for an entry without a row."""
    chosen = [(entry, rows[entry.name]) for entry in entries]
    return TEMPLATE.read_text().format(
        idle=IDLE,
        stay=f"{STAY_SECONDS:g}",
        cycles=CYCLES,
        results="\n".join(_line(*_cells(row)) for _, row in chosen),
        proofs="\n".join(_line(e.title, row.done, e.holds) for e, row in chosen),
        stays="\n".join(
            _line(entry.title, f"`{entry.outcome.reason}`", entry.outcome.remedy)
            for entry in entries
            if isinstance(entry.outcome, StaysAwake)
        ),
        conditions="\n".join(f"- {line}" for line in conditions),
    )


def brief(row: Row) -> str:
    """Return a row as one line for people who watch."""
    return ", ".join(_cells(row))


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.title,
        row.version,
        _number(row.memory_mib, "MiB"),
        _number(row.asleep_mib, "MiB"),
        _number(row.sleep_ms, "ms"),
        _number(row.wake_ms, "ms"),
        _number(row.first_ms, "ms"),
        row.result,
    )


def _number(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:,.{0 if value >= 10 else 1}f} {unit}"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
