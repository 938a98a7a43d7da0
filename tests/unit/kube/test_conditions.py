from __future__ import annotations

import datetime
from typing import Any

import pytest

from architect.kube import conditions
from architect.kube.conditions import Condition, Status

EARLY = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
LATE = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
ASLEEP = Condition(type="Asleep", status=Status.TRUE, reason="Slept", message="m")


def test_the_same_statement_is_no_change():
    first = conditions.merge([], ASLEEP, now=EARLY)
    assert first is not None
    assert conditions.merge([first], ASLEEP, now=LATE) is None


def test_the_time_moves_with_the_status_only():
    first = conditions.merge([], ASLEEP, now=EARLY)
    assert first is not None
    other = Condition(type="Asleep", status=Status.TRUE, reason="StillSlept")
    woken = Condition(type="Asleep", status=Status.FALSE, reason="Woke")
    same = conditions.merge([first], other, now=LATE)
    changed = conditions.merge([first], woken, now=LATE)
    assert same is not None
    assert changed is not None
    assert same["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    assert changed["lastTransitionTime"] == "2026-01-02T00:00:00Z"


def test_a_new_generation_is_a_change():
    first = conditions.merge([], ASLEEP, now=EARLY, generation=1)
    assert first is not None
    again = conditions.merge([first], ASLEEP, now=LATE, generation=2)
    assert again is not None
    assert again["observedGeneration"] == 2


def test_a_long_message_is_cut():
    value = conditions.merge(
        [], Condition(type="A", status=Status.TRUE, reason="R", message="x" * 9999), now=EARLY
    )
    assert value is not None
    assert len(value["message"]) == conditions.MAX_MESSAGE_CHARS


def test_replace_keeps_the_others():
    kept = conditions.replace([{"type": "A", "x": 1}, {"type": "B"}], {"type": "A", "x": 2})
    assert kept == [{"type": "B"}, {"type": "A", "x": 2}]


def test_a_time_is_written_in_utc_with_microseconds():
    east = datetime.timezone(datetime.timedelta(hours=2))
    at = datetime.datetime(2026, 1, 1, 2, 3, 4, 500000, tzinfo=east)
    assert conditions.micro_timestamp(at) == "2026-01-01T00:03:04.500000Z"


@pytest.mark.parametrize(
    ("value", "answers"),
    [
        ({}, (False, False, False)),
        ({"status": None}, (False, False, False)),
        ({"status": {"conditions": None}}, (False, False, False)),
        ({"status": {"conditions": [{"type": "B", "status": "True"}]}}, (False, False, False)),
        ({"status": {"conditions": [{"type": "A", "status": "True"}]}}, (True, False, True)),
        ({"status": {"conditions": [{"type": "A", "status": "False"}]}}, (False, True, True)),
        ({"status": {"conditions": [{"type": "A", "status": "Unknown"}]}}, (False, False, False)),
    ],
)
def test_what_an_object_says(value: dict[str, Any], answers: tuple[bool, bool, bool]) -> None:
    asked = (conditions.is_true, conditions.is_false, conditions.is_decided)
    assert tuple(ask(value, "A") for ask in asked) == answers
