"""What is done about pods whose machine ends, by the plan."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.core.obstacles import Obstacle
from architect.daemon.evacuation.course import HOPE, LEFT_ALONE, STORE_HOPE, Course, course
from architect.daemon.spot import planner
from architect.daemon.spot.inputs import Bounds, Pod, Rates, Request, State
from architect.daemon.spot.planner import Misfit
from support import spot

MIB = 1 << 20


def taken(pods: list[Pod], *, seconds: float, over: float = 0.0, reachable: bool = True) -> Course:
    request = Request(
        deadline_seconds=seconds,
        pods=tuple(pods),
        cores=4,
        rates=Rates(),
        bounds=Bounds(),
        is_store_reachable=reachable,
    )
    return course(planner.plan(request), {f"uid-{pod.name}": pod for pod in pods}, over=over)


def pod(name: str, size: int = 16 * MIB, **more: object) -> Pod:
    return Pod(name=name, image_bytes=size, **more)  # type: ignore[arg-type]


def test_those_for_whom_there_is_time_leave_at_once_in_the_plans_order() -> None:
    found = taken([pod("a"), pod("b", priority=7), pod("c", state=State.ASLEEP)], seconds=100)
    assert found.order[0] == "uid-b"
    assert sorted(found.leave) == sorted(found.order) == ["uid-a", "uid-b", "uid-c"]
    assert not found.refuse
    assert not found.waiting


def test_what_is_on_its_way_or_there_is_not_told_again() -> None:
    found = taken([pod("a", state=State.CAPTURED), pod("b", state=State.STORED)], seconds=100)
    assert found.leave == ()
    assert found.order == ("uid-a",)


def test_what_is_captured_is_sent_though_there_is_no_time_for_it() -> None:
    large = pod("large", 64 << 30, state=State.CAPTURED)
    found = taken([large, pod("small")], seconds=60, over=1.0)
    assert found.order == ("uid-small", "uid-large")
    assert not found.refuse


@pytest.mark.parametrize("over", [0.0, HOPE - 0.01])
def test_who_has_no_time_may_have_it_yet(over: float) -> None:
    found = taken([pod("large", 64 << 30), pod("small")], seconds=60, over=over)
    assert found.waiting["uid-large"].reason == planner.TOO_LARGE
    assert not found.refuse
    assert found.leave == ("uid-small",)


def test_who_has_no_time_is_told_when_half_of_it_is_over() -> None:
    found = taken([pod("large", 64 << 30), pod("small")], seconds=60, over=HOPE)
    assert found.refuse["uid-large"].reason == planner.TOO_LARGE
    assert not found.waiting


def test_a_store_that_is_away_is_waited_for_longer() -> None:
    found = taken([pod("a")], seconds=60, over=HOPE, reachable=False)
    assert found.waiting["uid-a"].reason == planner.STORE_UNREACHABLE
    found = taken([pod("a")], seconds=60, over=STORE_HOPE, reachable=False)
    assert found.refuse["uid-a"].reason == planner.STORE_UNREACHABLE


def test_what_no_time_would_help_is_told_at_once() -> None:
    volume = Obstacle("PersistentVolume", "writable volume data")
    found = taken([pod("a", obstacle=volume), pod("b", is_for_store=False)], seconds=60)
    assert {uid: why.reason for uid, why in found.refuse.items()} == {
        "uid-a": "PersistentVolume",
        "uid-b": planner.STAYS_ON_NODE,
    }


@pytest.mark.parametrize("reason", sorted(LEFT_ALONE))
def test_whom_nobody_replaces_is_left_alone(reason: str) -> None:
    found = taken([pod("a", obstacle=Obstacle(reason, "why"))], seconds=60, over=1.0)
    assert found == Course(order=(), captures=found.captures, leave=())


@given(st.lists(spot.pods(), min_size=1, max_size=1), st.floats(-10, 200), st.floats(0, 1))
def test_each_pod_is_told_one_thing(
    drawn: list[tuple[Pod, ...]], seconds: float, over: float
) -> None:
    pods = list(drawn[0])
    found = taken(pods, seconds=seconds, over=over)
    assert len(set(found.order)) == len(found.order)
    assert set(found.leave) <= set(found.order)
    groups = [set(found.leave), set(found.refuse), set(found.waiting)]
    assert sum(map(len, groups)) == len(set.union(*groups))
    by_uid = {f"uid-{p.name}": p for p in pods}
    for uid in set.union(*groups):
        assert by_uid[uid].state in (State.AWAKE, State.ASLEEP)
    assert all(isinstance(why, Misfit) for why in found.refuse.values())
