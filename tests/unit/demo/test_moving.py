"""How what the API server says about a move is read."""

from __future__ import annotations

from typing import Any

import pytest

from demo import moving
from demo.errors import DemoError

BEGAN = 1_700_000_000.0  # 2023-11-14T22:13:20Z


def checkpoint(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "counter-move"}, "status": status}


def said(kind: str, at: str, status: str = "True") -> dict[str, str]:
    return {"type": kind, "status": status, "lastTransitionTime": f"2023-11-14T22:13:{at}Z"}


def test_a_move_is_told_in_the_order_in_which_it_happened() -> None:
    text = moving.story_of(
        checkpoint(
            size="64.2Mi",
            durations={"capture": "0.412s"},
            conditions=[
                said("Restored", "23"),
                said("Captured", "21"),
                said("Available", "23", "False"),
                said("Claimed", "22"),
            ],
        ),
        BEGAN,
    )
    assert text == (
        "Checkpoint counter-move, 64.2Mi, saved in 0.41 s; Captured +1 s, Claimed +2 s, "
        "Restored +3 s"
    )


def test_a_checkpoint_without_a_duration_is_an_error_and_no_figure() -> None:
    with pytest.raises(DemoError, match="counter-move"):
        moving.capture_seconds(checkpoint())


def test_a_pod_without_an_address_cannot_be_asked_yet() -> None:
    pod = {"metadata": {"name": "counter-1"}, "status": {}}
    with pytest.raises(DemoError, match="counter-1"):
        moving.address(pod)
    pod["status"] = {"podIP": "10.0.0.1"}
    assert moving.address(pod) == "10.0.0.1"
