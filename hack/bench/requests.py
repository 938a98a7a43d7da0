"""Who asks the API server for what while pods are evicted, from its audit log.

``python -m bench.requests FILE``: of a cluster made with ``ARCHITECT_LAB_AUDIT=1``.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

WINDOW_SECONDS: Final = 40.0
"""From the first of some evictions: twenty pods have moved by then, and what follows is over."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One that was answered."""

    at: float
    """Unix seconds: when it came."""
    who: str
    """The first word of its user agent."""
    verb: str
    resource: str
    """With its subresource."""
    code: int

    @property
    def is_eviction(self) -> bool:
        """Whether somebody asked that a pod leaves."""
        return (self.verb, self.resource) == ("create", "pods/eviction")


def read(lines: Iterable[str]) -> Iterator[Request]:
    """Yield what an audit log has of requests for objects; not of watches, which last."""
    for line in lines:
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:
            continue  # the last one, half written
        where = entry.get("objectRef") or {}
        if entry.get("stage") != "ResponseComplete" or entry["verb"] == "watch" or not where:
            continue
        parts = (where.get("resource", ""), where.get("subresource", ""))
        yield Request(
            at=datetime.datetime.fromisoformat(entry["requestReceivedTimestamp"]).timestamp(),
            who=str(entry.get("userAgent") or "?").split("/")[0].split(" ")[0],
            verb=entry["verb"],
            resource="/".join(part for part in parts if part),
            code=int((entry.get("responseStatus") or {}).get("code") or 0),
        )


def drains(requests: Sequence[Request], *, pods: int) -> list[list[Request]]:
    """Return what came within :data:`WINDOW_SECONDS` of each time that *pods* were evicted."""
    evictions = sorted(request.at for request in requests if request.is_eviction)
    began: list[float] = []
    for at in evictions:
        if not began or at - began[-1] > WINDOW_SECONDS:
            began.append(at)
    windows = [[r for r in requests if 0 <= r.at - at < WINDOW_SECONDS] for at in began]
    return [w for w in windows if sum(request.is_eviction for request in w) >= pods]


def table(windows: Sequence[Sequence[Request]], *, pods: int) -> str:
    """Return the requests per pod that moved, by who asked for what, as Markdown; most first."""
    moved = len(windows) * pods
    counted: Counter[tuple[str, str, str]] = Counter()
    conflicts: Counter[tuple[str, str, str]] = Counter()
    for request in (request for window in windows for request in window):
        key = (request.who, request.verb, request.resource)
        counted[key] += 1
        conflicts[key] += request.code == 409
    lines = [
        "| who | verb | of | a pod that moves | conflicts |",
        "| --- | --- | --- | --- | --- |",
    ]
    for key, count in counted.most_common():
        cells = (*key, f"{count / moved:.2f}", f"{conflicts[key] / moved:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    both = (sum(counted.values()), sum(conflicts.values()))
    total, in_vain = (f"{count / moved:.1f}" for count in both)
    return "\n".join([*lines, f"| all | | | {total} | {in_vain} |"])


def main(words: list[str] | None = None) -> int:
    """Print the table of one file."""
    parser = argparse.ArgumentParser(prog="bench.requests", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--pods", type=int, default=20, help="that are evicted at once")
    options = parser.parse_args(words)
    with options.file.open() as lines:
        windows = drains(list(read(lines)), pods=options.pods)
    if not windows:
        print(f"{options.pods} pods were never evicted at once")
        return 1
    print(f"{len(windows)} times {options.pods} pods\n\n{table(windows, pods=options.pods)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
