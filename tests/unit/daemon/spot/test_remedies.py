"""What would help: each remedy is tried, by another plan."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from architect.daemon.spot import planner
from architect.daemon.spot.inputs import Bounds, Pod, Rates, Request, State
from architect.daemon.spot.planner import Misfit
from architect.daemon.spot.remedies import remedies
from architect.daemon.spot.schedule import Schedule
from support.spot import MIB, pods, requests, saved, with_more

TIMELY = {planner.NO_TIME, planner.NO_TIME_LEFT, planner.TOO_LARGE}
busy = requests(pods(has_obstacles=False), deadlines=(-5, 20))


@given(request=busy)
def test_who_fits_has_no_remedy_and_everybody_else_has_one(request):
    plan = planner.plan(request)
    for (_, verdict), found in zip(plan.outcomes, remedies(request, plan), strict=True):
        is_timely = isinstance(verdict, Misfit) and verdict.reason in TIMELY
        assert (found is not None) == is_timely
        if found is not None:
            assert found.seconds_more is not None
            assert found.seconds_more > 0


@given(request=busy)
@settings(max_examples=60)
def test_each_remedy_is_enough_beside_those_that_fit(request):
    """The others that do not fit before it are taken away: they would go first."""
    plan = planner.plan(request)
    before: list[Pod] = []
    for (pod, verdict), found in zip(plan.outcomes, remedies(request, plan), strict=True):
        if not isinstance(verdict, Misfit):
            before.append(pod)
            continue
        if found is None:
            continue
        beside = replace(request, pods=(*before, pod))
        assert pod.name not in saved(planner.plan(beside))
        if found.seconds_more is not None:
            # What is added to a deadline may be rounded away.
            seconds = request.deadline_seconds + found.seconds_more + 1e-9
            assert pod.name in saved(planner.plan(replace(beside, deadline_seconds=seconds)))
        if found.upload_factor is not None:
            faster = with_more(beside, "upload_bytes_per_second", factor=found.upload_factor)
            assert pod.name in saved(planner.plan(faster))
        if found.pods_fewer is not None:
            # What is stored takes nothing, as nothing is to be sent of some that are captured.
            taken = [p for p in before if p.state is not State.STORED]
            by_size = sorted(taken, key=lambda p: p.sent_bytes)
            rest = (*by_size[: len(taken) - found.pods_fewer], pod)
            assert pod.name in saved(planner.plan(replace(request, pods=rest)))


@given(request=busy)
@settings(max_examples=60)
def test_less_than_a_remedy_is_not_enough_in_the_same_manner(request):
    plan = planner.plan(request)
    before: list[Pod] = []
    for (pod, verdict), found in zip(plan.outcomes, remedies(request, plan), strict=True):
        if not isinstance(verdict, Misfit):
            before.append(pod)
        if found is None:
            continue
        places = range(len(before) + 1)
        if found.upload_factor is not None and found.upload_factor > 1.1:
            factor = (round(found.upload_factor * 10) - 1) / 10
            slower = with_more(request, "upload_bytes_per_second", factor=factor)
            assert not Schedule(slower, [*before, pod], plan.manner).fits(places)
        if found.pods_fewer is not None:
            by_size = sorted(before, key=lambda p: p.sent_bytes)
            rest = [*by_size[: len(before) - found.pods_fewer + 1], pod]
            assert not Schedule(request, rest, plan.manner).fits(range(len(rest)))


def test_what_would_help_is_told_with_numbers() -> None:
    rates = Rates(
        capture_fixed_seconds=1.0, upload_bytes_per_second=64 * MIB, upload_object_seconds=0.0
    )
    pods_of_it = tuple(Pod(name=f"p{n}", image_bytes=256 * MIB, priority=-n) for n in range(6))
    request = Request(
        deadline_seconds=30.0,
        pods=pods_of_it,
        cores=16,
        rates=replace(
            rates, seal_bytes_per_second_per_core=1e12, hash_bytes_per_second_per_core=1e12
        ),
        bounds=Bounds(captures=4, objects=1),
    )
    plan = planner.plan(request)
    assert len(plan.order) == 5
    found = remedies(request, plan)[5]
    assert found is not None
    # Each takes 5 s, with the safety.
    assert found.seconds_more == pytest.approx(2.4, abs=1.0)
    assert (found.upload_factor, found.pods_fewer) == (1.1, 1)


def test_where_the_dump_alone_takes_too_long_no_upload_rate_helps() -> None:
    rates = Rates(capture_fixed_seconds=40.0)
    request = Request(
        deadline_seconds=30.0, pods=(Pod(name="a", image_bytes=MIB),), cores=2, rates=rates
    )
    (found,) = remedies(request, planner.plan(request))
    assert found is not None
    assert (found.upload_factor, found.pods_fewer) == (None, None)
    assert found.seconds_more is not None
