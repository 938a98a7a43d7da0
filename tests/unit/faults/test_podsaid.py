"""A restart that nobody explains says nothing; an end is held against status and grace period."""

from __future__ import annotations

from typing import Any

import pytest

from faults import podsaid


def pod(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "deletionTimestamp": "2026-01-02T03:04:35Z",
            "deletionGracePeriodSeconds": 30,
        },
        "spec": {"terminationGracePeriodSeconds": 30},
        "status": {"containerStatuses": [{"name": "app", "restartCount": 0, **status}]},
    }


def ended(at: str, *, status: int = 7) -> dict[str, Any]:
    terminated = {"exitCode": status, "reason": "Error", "finishedAt": f"2026-01-02T03:04:{at}Z"}
    return pod(state={"terminated": terminated})


def test_an_event_of_ours_or_the_exit_status_says_it() -> None:
    last = {"terminated": {"exitCode": 137, "reason": "Error"}}
    assert podsaid.losses(pod(restartCount=1, lastState=last), []) == ["app: Error, status 137"]
    event = {"reason": "RestoreFailed", "message": "ImageLost"}
    assert podsaid.losses(pod(restartCount=1), [event]) == ["event RestoreFailed: ImageLost"]


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"restartCount": 1},
        {"restartCount": 1, "lastState": {}},
        {"restartCount": 1, "lastState": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
        {"lastState": {"terminated": {"exitCode": 137, "reason": "Error"}}},
    ],
)
def test_anything_else_says_nothing(status: dict[str, Any]) -> None:
    others = [{"reason": "Woke", "message": "x"}, {"reason": "Pulled"}, {}]
    assert podsaid.losses(pod(**status), others) == []


def test_an_end_is_told_once_every_container_has_one() -> None:
    assert not podsaid.has_ended({"status": {}})
    assert not podsaid.has_ended(pod(state={"running": {}}))
    assert podsaid.has_ended(ended("14"))


def test_an_end_in_its_own_time_and_with_its_own_status_is_right() -> None:
    # Asked at 03:04:05, which uses 8 s.
    found = ended("14")
    assert podsaid.wrong_with_end(found, status=7, used_seconds=8) == []
    # As kubelet leaves it.
    found["metadata"] |= {
        "deletionTimestamp": "2026-01-02T03:04:05Z",
        "deletionGracePeriodSeconds": 0,
    }
    assert podsaid.wrong_with_end(found, status=7, used_seconds=8) == []


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (ended("14", status=137), "exit status 137 (Error), not its own 7"),
        (ended("06"), "it had 1 s of its grace period, and wanted 8"),
        (ended("50"), "it ended 15 s after its grace period"),
        (pod(state={"running": {}}), "nobody says how it ended"),
    ],
)
def test_what_is_wrong_with_an_end_is_said(found: dict[str, Any], wrong: str) -> None:
    assert podsaid.wrong_with_end(found, status=7, used_seconds=8) == [wrong]
