"""Results files as Markdown tables: ``python -m bench.report build/bench.json…``.

The tables of ``docs/performance.md`` are its output, so that no figure is written by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.figures import number

HEAD: Final = ("what", "unit", "p50", "p90", "p99", "n", "goal")
Entry = Mapping[str, Any]


def main() -> None:
    """Print the tables of the files that the arguments name."""
    entries = [entry for path in sys.argv[1:] for entry in json.loads(Path(path).read_text())]
    print(results(entries))
    print()
    print(baselines(entries))


def results(entries: Sequence[Entry]) -> str:
    """Return one row per quantity."""
    return _table(HEAD, (_result(entry) for entry in entries))


def baselines(entries: Sequence[Entry]) -> str:
    """Return one row per thing that a quantity is made of or stands beside."""
    head = ("quantity", "beside it, or of which", "p50", "p90", "n")
    rows = (
        (f"`{entry['name']}`", name, number(spread["p50"]), number(spread["p90"]), spread["n"])
        for entry in entries
        for group in ("parts", "baseline")
        for name, spread in (entry[group] or {}).items()
    )
    return _table(head, rows)


def _result(entry: Entry) -> tuple[object, ...]:
    cells = [number(entry[key]) for key in ("p50", "p90", "p99")]
    return (f"`{entry['name']}`", entry["unit"], *cells, entry["n"], _goal(entry))


def _goal(entry: Entry) -> str:
    said = []
    for key, sign in (("goal", "≤"), ("at_least", "≥")):
        for statistic, limit in (entry.get(key) or {}).items():
            value = entry[statistic]
            is_met = value <= limit if key == "goal" else value >= limit
            verdict = "met" if is_met else "**missed**"
            measured = "" if statistic in HEAD else f" is {number(value)}"
            said.append(f"{statistic}{measured} {sign} {number(limit)}: {verdict}")
    return ", ".join(said) or "–"


def _table(head: Sequence[str], rows: Iterator[tuple[object, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


if __name__ == "__main__":
    main()
