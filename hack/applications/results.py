"""Rows of several runs in one file, each with the conditions that it was measured under."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from applications.trial import Row


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a row was measured under."""

    host: str
    """Day, kernel and the like: the same for many rows."""
    load: float
    """Load average before the trial."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """What is known so far, by the entry's name."""

    rows: dict[str, Row]
    conditions: dict[str, Conditions]

    @classmethod
    def read(cls, path: Path) -> Results:
        """Return what *path* has; nothing if it is not there."""
        found = json.loads(path.read_text()) if path.exists() else {}
        return cls(
            rows={name: Row(**value["row"]) for name, value in found.items()},
            conditions={name: Conditions(**value["conditions"]) for name, value in found.items()},
        )

    def add(self, row: Row, conditions: Conditions) -> None:
        """Take a row in, in place of the application's last one."""
        self.rows[row.name], self.conditions[row.name] = row, conditions

    def write(self, path: Path) -> None:
        """Write all that is known to *path*."""
        value = {
            name: {"row": row.to_json(), "conditions": asdict(self.conditions[name])}
            for name, row in self.rows.items()
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.new")
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
        temporary.rename(path)

    def told_conditions(self) -> list[str]:
        """Return the conditions for people: each host once, with its lowest and highest load."""
        by_host: dict[str, list[float]] = {}
        for one in self.conditions.values():
            by_host.setdefault(one.host, []).append(one.load)
        return [
            f"{host}; load average {min(loads):.1f} to {max(loads):.1f} before each trial"
            for host, loads in by_host.items()
        ]
