"""The table and the file of what was measured."""

from __future__ import annotations

import json
from pathlib import Path

from demo import results
from demo.results import Result

SHORT = Result(name="a", value=7, unit="ms", conditions="one")
LONG = Result(name="a long name", value=1234.56, unit="MiB", conditions="two")


def test_columns_are_aligned_and_numbers_stand_to_the_right() -> None:
    head, rule, first, second = results.table([SHORT, LONG]).splitlines()
    assert head.startswith("what")
    assert set(rule) == {"-", " "}
    assert first.index("ms") == second.index("MiB")
    assert first.split() == ["a", "7", "ms", "one"]
    assert first[: first.index("ms")].rstrip().endswith("7")
    assert second[: second.index("MiB")].rstrip().endswith("1234.6")


def test_the_file_is_a_list_with_the_four_fields(tmp_path: Path) -> None:
    target = tmp_path / "build" / "demo.json"
    results.write([SHORT, LONG], target)
    assert json.loads(target.read_text())[0] == {
        "name": "a",
        "value": 7,
        "unit": "ms",
        "conditions": "one",
    }
    assert [path.name for path in target.parent.iterdir()] == ["demo.json"]
