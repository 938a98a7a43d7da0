"""What came of the pairs, as JSON and as the table of the docs."""

from __future__ import annotations

from pathlib import Path

from faults import matrix, results
from faults.results import GOES_ON, RESTARTED, Result


def made(fault: str, step: str, outcome: str, *failures: str) -> Result:
    return Result(fault=fault, step=step, outcome=outcome, seconds=1.0, failures=list(failures))


FOUND = [
    made("keeper", "dump", GOES_ON),
    made("init", "asleep", RESTARTED),
    made("criu", "restore", GOES_ON, "leak of files: x"),
]


def test_they_are_written_and_read(tmp_path: Path) -> None:
    value = results.summary(FOUND, stage="node", conditions="a machine")
    assert (value["tried"], value["survived"], value["leaks"]) == (3, 2, 1)
    results.write(value, tmp_path / "new" / "faults.json")
    assert results.read(tmp_path / "new" / "faults.json") == FOUND


def test_the_table_has_what_was_tried_what_failed_and_what_has_no_meaning() -> None:
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for cells in (line.split("|") for line in results.table(FOUND).splitlines())
    }
    at = {step: number for number, step in enumerate(rows[""])}
    assert rows["keeper"][at["dump"]] == "✓"
    assert rows["keeper"][at["asleep"]] == ""
    assert rows["init"][at["asleep"]] == "↻"
    assert rows["criu"][at["restore"]] == "✗"
    assert rows["criu"][at["asleep"]] == "–"


def test_what_is_not_tried_and_what_may_be_lost_has_its_reason() -> None:
    told = results.reasons()
    assert "no CRIU works then" in told
    assert "the application runs CRIU's code" in told


def test_what_has_no_result_yet_is_told() -> None:
    left = {str(pair) for pair in results.untried(matrix.tried(["keeper", "init"]), FOUND)}
    assert "keeper@dump" not in left
    assert "init@asleep" not in left
    assert "keeper@asleep" in left


def test_a_result_says_what_failed() -> None:
    assert str(FOUND[2]) == "criu@restore: FAILED leak of files: x"
    assert str(FOUND[0]) == "keeper@dump: goes on"
