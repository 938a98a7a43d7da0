"""Percentiles, goals and how they are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import figures
from bench.errors import BenchError
from bench.figures import Result, Spread


def result(values: list[float], **options: object) -> Result:
    fields: dict[str, object] = {
        "name": "wake",
        "unit": "ms",
        "spread": Spread.of(values),
        "conditions": "quiet",
    }
    return Result(**{**fields, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (90, 90), (99, 99), (100, 100)]
)
def test_a_percentile_is_one_of_the_values(percent: float, expected: float) -> None:
    assert figures.percentile(list(range(100, 0, -1)), percent) == expected


def test_the_99th_of_few_values_is_their_largest() -> None:
    assert figures.percentile([3, 1, 2], 99) == 3
    assert figures.percentile([5], 50) == 5


def test_the_99th_of_200_values_leaves_two_above_it() -> None:
    assert figures.percentile(list(range(1, 201)), 99) == 198


def test_a_spread_tells_the_mean_and_both_ends() -> None:
    spread = Spread.of([4, 1, 1, 2])
    assert (spread.least, spread.most, spread.mean, spread.n) == (1, 4, 2, 4)
    assert spread.p50 == 1


def test_nothing_measured_is_no_spread() -> None:
    with pytest.raises(BenchError, match="no run"):
        Spread.of([])


def test_a_goal_that_is_just_met_is_not_missed() -> None:
    assert figures.misses([result([90.0], goal={"p50": 90, "p99": 90})]) == []


def test_a_missed_goal_is_said_with_value_limit_and_excess() -> None:
    (sentence,) = figures.misses([result([99.0, 99.0], goal={"p50": 90, "p99": 250})])
    assert sentence == "wake: p50 99 ms, goal 90 ms (10 % over)"


def test_a_goal_can_be_a_lower_bound() -> None:
    ratio = Result(
        name="ratio",
        unit="",
        spread=Spread.of([0.35]),
        conditions="",
        at_least={"p50": 0.7, "mean": 0.3},
    )
    (sentence,) = figures.misses([ratio])
    assert sentence == "ratio: p50 0.35, goal 0.70 (50 % under)"
    assert figures.verdict([ratio]).startswith("1 of 2 goals met")
    assert "p50 ≥ 0.70 MISSED, mean ≥ 0.30" in figures.table([ratio])
    assert ratio.as_json()["at_least"] == {"p50": 0.7, "mean": 0.3}


def test_a_goal_can_be_set_for_the_mean_and_for_nothing_unknown() -> None:
    assert figures.misses([result([1.0, 4.0], goal={"mean": 2})])
    with pytest.raises(BenchError, match="p75"):
        figures.misses([result([1.0], goal={"p75": 2})])


def test_the_verdict_counts_goals_and_names_what_was_cut_short() -> None:
    said = figures.verdict(
        [
            result([100.0], goal={"p50": 90, "p99": 250}, wanted=200),
            result([1.0], name="other", wanted=1),
        ]
    ).splitlines()
    assert said == [
        "1 of 2 goals met",
        "MISSED  wake: p50 100 ms, goal 90 ms (11 % over)",
        "SHORT   wake: 1 runs instead of 200",
    ]


def test_the_table_has_aligned_columns_and_baselines_below_their_quantity() -> None:
    lines = figures.table(
        [
            result(
                [100.0],
                goal={"p50": 90},
                baseline={"plain runc": Spread.of([1234.5])},
                parts={"restore": Spread.of([80.25])},
            )
        ]
    ).splitlines()
    assert lines[0].split() == ["what", "unit", "p50", "p90", "p99", "mean", "n", "goal"]
    assert set(lines[1]) == {"-", " "}
    assert lines[2].endswith("p50 ≤ 90 MISSED")
    assert lines[3].split() == ["of", "which", "restore", *["80.2"] * 4, "1"]
    assert lines[4].split() == ["beside:", "plain", "runc", *["1234"] * 4, "1"]
    assert len({line.index("100") for line in lines if "100" in line}) == 1


def test_the_file_has_the_promised_keys(tmp_path: Path) -> None:
    target = tmp_path / "new" / "bench.json"
    figures.write([result([1.0, 2.0], goal={"p50": 3}, baseline={"b": Spread.of([5.0])})], target)
    (entry,) = json.loads(target.read_text())
    assert {"name", "unit", "p50", "p90", "p99", "n", "goal", "baseline", "conditions"} <= set(
        entry
    )
    assert entry["p50"] == 1
    assert entry["n"] == 2
    assert entry["goal"] == {"p50": 3}
    assert entry["baseline"]["b"]["p50"] == 5
    assert [path.name for path in target.parent.iterdir()] == ["bench.json"]


def test_a_quantity_without_a_goal_says_so(tmp_path: Path) -> None:
    assert result([1.0]).as_json()["goal"] is None
    assert result([1.0]).as_json()["baseline"] is None


@pytest.mark.parametrize(
    ("value", "expected"), [(7, "7"), (7.0, "7"), (0.123, "0.12"), (12.34, "12.3"), (123.4, "123")]
)
def test_numbers_have_as_many_digits_as_they_deserve(value: float, expected: str) -> None:
    assert figures.number(value) == expected


def test_progress_has_a_median_as_soon_as_there_is_one() -> None:
    assert figures.so_far([], "ms") == ""
    assert figures.so_far([3.0, 1.0, 2.0], "ms") == ", median 2 ms"
