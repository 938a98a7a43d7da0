"""The results file as Markdown."""

from __future__ import annotations

from bench import report
from bench.figures import Result, Spread

ENTRY = Result(
    name="wake",
    unit="ms",
    spread=Spread.of([80.0, 300.0]),
    conditions="quiet",
    goal={"p50": 90, "p99": 250},
    baseline={"plain runc": Spread.of([120.0])},
    parts={"restore": Spread.of([70.5])},
).as_json()
MEAN = Result(
    name="daemon", unit="%", spread=Spread.of([0.25]), conditions="", goal={"mean": 1}
).as_json()


def test_each_quantity_has_a_row_that_says_whether_its_goals_are_met() -> None:
    lines = report.results([ENTRY, MEAN]).splitlines()
    assert lines[0] == "| what | unit | p50 | p90 | p99 | n | goal |"
    assert lines[2] == (
        "| `wake` | ms | 80 | 300 | 300 | 2 | p50 ≤ 90: met, p99 ≤ 250: **missed** |"
    )
    assert lines[3].endswith("| 1 | mean is 0.25 ≤ 1: met |")
    entry = {**MEAN, "goal": None, "at_least": {"p50": 0.7}}
    assert report.results([entry]).endswith("| 1 | p50 ≥ 0.70: **missed** |")


def test_parts_and_baselines_have_rows_of_their_own() -> None:
    lines = report.baselines([ENTRY, MEAN]).splitlines()
    assert lines[2:] == [
        "| `wake` | restore | 70.5 | 70.5 | 1 |",
        "| `wake` | plain runc | 120 | 120 | 1 |",
    ]
