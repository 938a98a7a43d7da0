"""What the pages say of a copy ahead of a notice was computed, and fits what was measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from architect.daemon.spot.inputs import Bounds
from bench import ahead, aheadapps, paper, paperahead
from bench.paper import Machine

DOCS = Path(__file__).parents[2] / "docs"
SPOT = (DOCS / "spot.md").read_text(encoding="utf-8")
PERFORMANCE = (DOCS / "performance.md").read_text(encoding="utf-8")
DECISION = (DOCS / "decisions" / "0019-nothing-is-captured-ahead.md").read_text(encoding="utf-8")
READS, WRITES = ("idle", "model", "cache", "log", "web"), ("pages1", "pages10", "redis")


def measured() -> dict[str, dict[str, str]]:
    """Return the table of figures: by the application's name, each column's cell."""
    (section,) = re.findall(
        r"^## A copy ahead of a notice$(.*?)^## ", PERFORMANCE, re.MULTILINE | re.DOTALL
    )
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    head, by_text = rows[0], {row[0]: row for row in rows[2:]}
    assert by_text.keys() == {app.text for app in aheadapps.APPS}
    return {app.name: dict(zip(head, by_text[app.text], strict=True)) for app in aheadapps.APPS}


def percent(row: dict[str, str], cut: str) -> int:
    return int(row[ahead.CUTS[cut]].removesuffix(" %"))


@pytest.mark.parametrize("machine", paperahead.CHOSEN, ids=str)
def test_what_a_copy_would_bring_is_computed(machine: Machine) -> None:
    assert f"\n{paperahead.row(machine)}\n" in SPOT


def test_every_cut_that_is_computed_is_in_the_table() -> None:
    found = measured()
    assert all(set(ahead.CUTS.values()) <= row.keys() for row in found.values())


def test_what_is_concluded_is_in_the_table() -> None:
    found = measured()
    assert {percent(row, "shards") for row in found.values()} == {0}
    assert len(found) == 9 and "of nine applications" in DECISION and "nine applications" in SPOT
    kept = [percent(found[name], "address8") for name in READS]
    assert f"8 MiB keep {min(kept)} to {max(kept)} % of applications" in DECISION
    assert max(percent(found[name], "address8") for name in WRITES) == 1
    assert "1 % at the most" in DECISION
    assert all(percent(row, "content1") <= percent(row, "address1") for row in found.values())
    assert f"({min(percent(row, 'pages') for row in found.values())} % and more" in DECISION
    assert all(abs(percent(row, "live") - percent(row, "pages")) <= 3 for row in found.values())


def test_how_long_a_pod_stands_still_is_of_the_measured_sleep_and_wake() -> None:
    seconds = sum(
        float(re.findall(rf"^\| `{name}` \| ms \| ([\d.]+) \|", PERFORMANCE, re.MULTILINE)[0])
        for name in ("sleep.1024MB", "wake.first_byte.1024MB")
    )
    said = f"{seconds / 1000:.1f} s for each GiB"
    assert said in SPOT and said in DECISION
    least = paperahead.largest_mib(paperahead.CHOSEN[0], 0.0) / 1024
    assert f"more than {least:g} GiB, would stand still for {least * seconds / 1000:.0f} s and" in (
        DECISION
    )


def test_what_more_objects_at_once_have_brought_is_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = paper.MACHINES[0]
    assert machine.gigabits == 10
    now, with_most = (paperahead.largest_mib(machine, share) for share in (0.0, 0.85))
    assert f"{now / 1024:g} GiB without, and of {with_most / 1024:g} with 85 %" in DECISION
    monkeypatch.setattr(Machine, "as_it_is", Bounds())
    before = paperahead.largest_mib(machine, 0.0)
    assert f"({before / 1024:g} to {now / 1024:g} GiB)" in DECISION
