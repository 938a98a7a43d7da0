"""Who would miss a saved pod, and who goes first; nobody goes who is the only copy and awaited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.daemon.moves import surplus
from architect.daemon.moves.surplus import LATE_SECONDS, Saved, Standing

Json = dict[str, Any]


def checkpoint(conditions: Mapping[str, str], *, claimed: str = "") -> Json:
    status: Json = {"conditions": [{"type": t, "status": s} for t, s in conditions.items()]}
    if claimed:
        status["claimedBy"] = {"name": "new", "uid": "uid-new", "node": claimed}
    return {"spec": {}, "status": status}


FREE = {"Captured": "True", "Available": "True"}


@pytest.mark.parametrize(
    ("value", "age", "expected"),
    [
        (None, 0, Standing.OVER),
        (checkpoint({**FREE, "Restored": "True"}), 0, Standing.OVER),
        (checkpoint({"Captured": "True", "Available": "False"}), 0, Standing.OVER),
        (checkpoint({"Captured": "Unknown"}), 9999, Standing.WANTED),
        (checkpoint({}), 9999, Standing.WANTED),
        (checkpoint(FREE), 0, Standing.WANTED),
        (checkpoint(FREE), LATE_SECONDS, Standing.WANTED),
        (checkpoint(FREE), LATE_SECONDS + 1, Standing.LATE),
        (checkpoint({**FREE, "Stored": "False"}), 0, Standing.WANTED),
        (checkpoint({**FREE, "Stored": "True"}), 0, Standing.STORED),
        (checkpoint({**FREE, "Stored": "True"}), 9999, Standing.STORED),
        (checkpoint(FREE, claimed="node2"), 9999, Standing.WANTED),
        (checkpoint({**FREE, "Stored": "True"}, claimed="node2"), 0, Standing.WANTED),
        (checkpoint({**FREE, "Restored": "False"}, claimed="node2"), 9999, Standing.WANTED),
        (checkpoint({**FREE, "Restored": "Unknown"}, claimed="node2"), 0, Standing.TAKEN),
        (
            checkpoint({**FREE, "Restored": "Unknown"}, claimed="node1"),
            9999,
            Standing.WANTED,
        ),
        (
            checkpoint(
                {"Captured": "True", "Available": "False", "Restored": "Unknown"}, claimed="node2"
            ),
            9999,
            Standing.WANTED,
        ),
    ],
)
def test_how_a_saved_pod_stands(value: Json | None, age: float, expected: Standing) -> None:
    assert surplus.standing(value, node="node1", age_seconds=age) is expected
    assert surplus.standing(value, node="node1", age_seconds=age, is_there=True) is Standing.WANTED


def test_one_that_could_not_be_announced_is_awaited() -> None:
    assert (
        surplus.standing(None, node="node1", age_seconds=0, is_unannounced=True) is Standing.WANTED
    )


def saved(uid: str, standing: Standing, *, size: int = 10, created: float = 0) -> Saved:
    return Saved(uid=uid, size=size, created=created, standing=standing)


ALL = [
    saved("wanted", Standing.WANTED),
    saved("late", Standing.LATE, created=1),
    saved("later", Standing.LATE, created=2),
    saved("taken", Standing.TAKEN, created=9),
    saved("stored", Standing.STORED, created=8),
    saved("over", Standing.OVER, created=7),
]


def gone(values: list[Saved], quota: int, **given: int) -> tuple[list[str], bool]:
    found = surplus.surplus(values, quota_bytes=quota, **given)
    return [one.uid for one in found.gone], found.has_room


def test_those_who_are_not_missed_go_first_and_the_oldest_of_those_who_may_be() -> None:
    assert gone(ALL, 60) == ([], True)
    assert gone(ALL, 59) == (["over"], True)
    assert gone(ALL, 30) == (["over", "stored", "taken"], True)
    assert gone(ALL, 20) == (["over", "stored", "taken", "late"], True)
    assert gone(ALL, 10) == (["over", "stored", "taken", "late", "later"], True)
    assert gone(ALL, 9) == (["over", "stored", "taken", "late", "later"], False)


def test_nobody_is_lost_for_one_for_whom_that_makes_no_room() -> None:
    assert gone(ALL, 60, needed_bytes=10) == (["over"], True)
    assert gone(ALL, 60, needed_bytes=50) == (["over", "stored", "taken", "late", "later"], True)
    assert gone(ALL, 60, needed_bytes=51) == (["over", "stored"], False)
    assert gone(ALL, 60, needed_bytes=99) == (["over", "stored"], False)


def test_what_lies_there_besides_counts() -> None:
    assert gone(ALL, 60, fixed_bytes=5) == (["over"], True)
    assert gone([], 60, fixed_bytes=61) == ([], False)


@given(
    st.lists(
        st.tuples(st.sampled_from(Standing), st.integers(1, 9), st.integers(0, 5)), max_size=10
    ),
    st.integers(0, 40),
    st.integers(0, 12),
    st.integers(0, 12),
)
def test_whoever_lies_there(
    made: list[tuple[Standing, int, int]], quota: int, fixed: int, needed: int
) -> None:
    values = [
        saved(f"uid-{n}", standing, size=size, created=created)
        for n, (standing, size, created) in enumerate(made)
    ]
    found = surplus.surplus(values, fixed_bytes=fixed, needed_bytes=needed, quota_bytes=quota)
    left = [one for one in values if one not in found.gone]
    held = sum(one.size for one in left) + fixed
    assert all(one.standing is not Standing.WANTED for one in found.gone)
    assert found.has_room == (held + needed <= quota)
    if not needed and not found.has_room:
        assert all(one.standing is Standing.WANTED for one in left)
    if needed and not found.has_room:
        assert not [one for one in found.gone if one.standing > Standing.STORED]
    worst = max((one.standing for one in found.gone), default=Standing.OVER)
    assert all(one.standing >= worst for one in left), "one that is missed less has stayed"
    # Who is let go makes no more room than is needed.
    for one in found.gone[-1:]:
        assert held + one.size + needed > quota
