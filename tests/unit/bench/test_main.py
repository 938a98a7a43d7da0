"""The command line: what is chosen, what a missed goal and a failure do to the exit status."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench import __main__ as main
from bench.clock import Clock
from bench.errors import BenchError
from bench.figures import Result, Spread
from bench.plan import SCENARIOS
from lab.progress import SILENT


def test_the_number_of_runs_holds_for_every_scenario_chosen() -> None:
    assert [s.runs for s in main.chosen(["create"], runs=3)] == [3]
    assert main.chosen([], runs=None) == list(SCENARIOS)


def test_an_unknown_name_ends_before_anything_is_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(main, "Cluster", None)
    assert main.main(["--only", "nothing"]) == 2
    assert "nothing is called 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["0", "-1", "many", "1.5"])
def test_runs_are_whole_numbers_above_zero(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.parser().parse_args(["--runs", wrong])
    assert "--runs" in capsys.readouterr().err


def test_every_scenario_has_a_measure() -> None:
    assert len({main._measure_of(scenario).__module__ for scenario in SCENARIOS}) == 9


def test_what_was_measured_is_written_before_the_next_can_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    output = tmp_path / "bench.json"
    result = Result(name="a", unit="ms", spread=Spread.of([1.0]), conditions="")
    outcomes: list[Any] = [[result], BenchError("first"), KeyError("a defect")]

    def measure(*_: object) -> list[Result]:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return list(outcome)

    monkeypatch.setattr(main, "_measure_of", lambda scenario: measure)
    stage = cast(Any, SimpleNamespace(cluster=SimpleNamespace(progress=SILENT)))
    found: list[Result] = []
    failed: list[str] = []
    with pytest.raises(KeyError):
        main.run(stage, SCENARIOS[:3], Clock(60), output=output, found=found, failed=failed)
    assert [entry["name"] for entry in json.loads(output.read_text())] == ["a"]
    assert len(failed) == 1
    assert "BenchError: first" in failed[0]


def test_only_can_be_repeated() -> None:
    options = main.parser().parse_args(["--only", "a", "--only", "b"])
    assert options.only == ["a", "b"]
    with pytest.raises(BenchError):
        main.chosen(options.only, runs=None)
