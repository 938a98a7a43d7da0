"""``docs/workloads.md`` has each application of the catalogue, with the result that is expected."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from applications import catalogue, page, trial
from applications.entry import IDLE, Entry, StaysAwake
from applications.results import Conditions, Results
from applications.trial import Row

CHECKOUT = Path(__file__).parents[2]
PAGE = (CHECKOUT / "docs" / "workloads.md").read_text(encoding="utf-8")


def rows(section: str) -> list[list[str]]:
    """Return the cells of a section's table."""
    (text,) = re.findall(rf"^## {section}\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    return [line.strip("|").strip().split(" | ") for line in lines]


@pytest.mark.parametrize("entry", catalogue.ALL, ids=lambda entry: entry.name)
def test_each_application_is_there_with_what_is_expected(entry: Entry) -> None:
    (found,) = [cells for cells in rows("Results") if cells[0] == entry.title]
    assert found[-1] == str(entry.outcome)
    (checked,) = [cells for cells in rows("What was checked") if cells[0] == entry.title]
    assert checked[-1] == entry.holds
    if isinstance(entry.outcome, StaysAwake):
        (stays,) = [cells for cells in rows("What does not sleep, .*?") if cells[0] == entry.title]
        assert stays[1:] == [f"`{entry.outcome.reason}`", entry.outcome.remedy]
    else:
        assert "–" not in found, "what sleeps has all figures"


def test_nothing_else_is_there() -> None:
    titles = [entry.title for entry in catalogue.ALL]
    assert [cells[0] for cells in rows("Results")] == titles
    assert len({entry.name for entry in catalogue.ALL}) == len(titles)
    told = page.TEMPLATE.read_text(encoding="utf-8").partition("## Results")[0]
    told = told.format(idle=IDLE, stay=f"{trial.STAY_SECONDS:g}", cycles=trial.CYCLES)
    assert PAGE.startswith(told)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    row = Row(
        name="go",
        title="Go",
        version="1",
        memory_mib=9.95,
        asleep_mib=0.4,
        sleep_ms=120,
        wake_ms=None,
        first_ms=1200,
        result="sleeps and wakes",
        done="7 requests",
    )
    results = Results.read(tmp_path / "none.json")
    results.add(row, Conditions(host="a good day", load=0.25))
    results.write(tmp_path / "some.json")
    again = Results.read(tmp_path / "some.json")
    assert again == results
    again.add(replace(row, name="node"), Conditions(host="a good day", load=7))
    (told,) = again.told_conditions()
    assert told == "a good day; load average 0.2 to 7.0 before each trial"
    assert page.brief(row) == "Go, 1, 9.9 MiB, 0.4 MiB, 120 ms, –, 1,200 ms, sleeps and wakes"
