"""What ``make soak`` writes has the figures that were promised, and the page is made of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from faults import CHECKOUT, page, soak
from faults.soak import Outcome
from lab import interrupts

PROMISED = {"requests", "errors", "cycles", "leaks", "percentiles"}
SPREAD = soak._spread([1.0, 2.0, 3.0, 4.0])


def outcome(*, errors: int = 0) -> Outcome:
    return Outcome(
        pods=20,
        cycles=1000,
        requests=3000,
        errors=errors,
        leaks=0,
        restarts=0,
        seconds=111.0,
        percentiles={"request": SPREAD, "sleep": SPREAD, "wake": SPREAD},
        error_texts=["connection reset"] * errors,
        leaked=[],
        failures=[],
        conditions="a machine",
    )


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(found: Outcome) -> tuple[int, dict[str, Any]]:
        monkeypatch.setattr(soak, "soak", lambda *_, **__: found)
        monkeypatch.setattr(soak, "Cluster", lambda **_: None)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(interrupts, "handle", lambda: None)
        file = tmp_path / "build" / "soak.json"
        status = soak.main(["--attach", "--output", str(file)])
        value: dict[str, Any] = json.loads(file.read_text())
        return status, value

    return run


def test_it_is_written_where_it_was_promised() -> None:
    assert soak.parser().parse_args([]).output == CHECKOUT / "build" / "soak.json"


def test_the_file_has_what_was_promised(written: Any) -> None:
    status, value = written(outcome())
    assert status == 0
    assert value.keys() >= PROMISED
    counts = [value[key] for key in ("requests", "errors", "cycles", "leaks")]
    assert counts == [3000, 0, 1000, 0]
    assert value["percentiles"].keys() == {"request", "sleep", "wake"}
    assert value["percentiles"]["wake"].keys() == {"p50", "p90", "p99", "max"}


def test_an_error_is_in_the_file_and_in_the_exit_status(written: Any) -> None:
    status, value = written(outcome(errors=2))
    assert (status, value["errors"], value["error_texts"]) == (1, 2, ["connection reset"] * 2)


def test_the_page_is_made_of_it(written: Any) -> None:
    _, value = written(outcome())
    text = page.soak(value)
    assert "1000 cycles over 20 pods in 111 s: 3000 requests, 0 errors, 0 restarts, 0 leaks" in text
    assert "\n| wake | 2 | " in text
    assert " | 4 |\n" in text
