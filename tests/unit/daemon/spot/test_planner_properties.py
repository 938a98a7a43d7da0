"""The planner: what holds for every node."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from architect.daemon.spot import planner, schedule
from architect.daemon.spot.inputs import Pod, Request, State
from architect.daemon.spot.pipeline import Pace, Pipeline
from architect.daemon.spot.planner import Misfit, Plan, Saved, Stored
from architect.daemon.spot.schedule import SAFETY, TURNS_BYTES, Manner, Schedule
from support.spot import MIB, MORE, UNSAVED, Simulation, pods, requests, saved, with_more

any_request = requests(pods())
factors = st.sampled_from([1.01, 1.5, 2.0, 10.0]) | st.floats(1.0, 100.0)


def fits(plan: Plan) -> list[bool]:
    return [not isinstance(verdict, Misfit) for _, verdict in plan.outcomes]


@given(request=any_request)
def test_nobody_is_saved_after_the_deadline(request):
    plan = planner.plan(request)
    assert all(0 <= seconds <= request.deadline_seconds for seconds in saved(plan).values())
    assert {pod.name for pod in plan.order} == set(saved(plan))
    assert len(plan.outcomes) == len(request.pods)


@given(request=any_request, source=st.randoms(use_true_random=False))
def test_the_order_in_which_pods_are_given_means_nothing(request: Request, source: random.Random):
    plan = planner.plan(request)
    given_pods = list(request.pods)
    source.shuffle(given_pods)
    assert planner.plan(replace(request, pods=tuple(given_pods))) == plan


@given(request=any_request, twice=st.sets(st.integers(0, 11)))
def test_two_pods_of_one_name_are_two(request, twice):
    doubled = tuple(pod for n, pod in enumerate(request.pods) if n in twice)
    plan = planner.plan(replace(request, pods=request.pods + doubled))
    assert len(plan.outcomes) == len(request.pods) + len(doubled)
    taken = [verdict for _, verdict in plan.outcomes if isinstance(verdict, Saved)]
    assert len(plan.order) == len(taken)


@given(request=any_request, source=st.randoms(use_true_random=False) | st.none())
@settings(max_examples=50)
def test_a_node_that_carries_the_plan_out_keeps_every_promise(request, source):
    plan = planner.plan(request)
    done = Simulation(request=request, plan=plan, luck=source).run()
    assert done.keys() == saved(plan).keys()
    for name, seconds in saved(plan).items():
        # As fast as it was told to be, a node has all of the safety left.
        assert done[name] <= seconds / SAFETY + 1e-6


@given(request=any_request, bar=st.sampled_from([0, 1000]))
def test_no_pod_is_saved_at_the_cost_of_one_of_higher_priority(request, bar):
    """Take away all below *bar*: what becomes of the others is the same, one by one."""
    above = replace(request, pods=tuple(p for p in request.pods if p.priority >= bar))
    with_all = {p.name: v for p, v in planner.plan(request).outcomes if p.priority >= bar}
    alone = {p.name: v for p, v in planner.plan(above).outcomes}
    assert {n: _kind(v) for n, v in with_all.items()} == {n: _kind(v) for n, v in alone.items()}


def _kind(verdict: planner.Verdict) -> tuple[object, ...]:
    reason = verdict.reason if isinstance(verdict, Misfit) else None
    yields_to = verdict.yields_to if isinstance(verdict, Saved) else None
    return type(verdict), reason, yields_to


@given(
    request=any_request,
    manner=st.sampled_from(planner.manners(Request(deadline_seconds=1, pods=(), cores=1))),
)
def test_within_a_manner_lower_priority_does_not_even_delay(request, manner):
    ranked = sorted(request.pods, key=schedule.rank)
    carried_out = Schedule(request, ranked, manner)
    all_of_them = carried_out.ends(range(len(ranked)))
    above = [n for n, pod in enumerate(ranked) if pod.priority == 1000]
    assert carried_out.ends(above) == {n: all_of_them[n] for n in above}


@pytest.mark.parametrize("what", MORE)
@given(request=any_request, factor=factors)
@settings(max_examples=25)
def test_with_more_the_first_change_is_for_the_better(what, request, factor):
    """The order of pods by rank decides, as letters do in a dictionary."""
    before = planner.plan(request)
    after = planner.plan(with_more(request, what, factor=factor))
    assert [p for p, _ in before.outcomes] == [p for p, _ in after.outcomes]
    assert fits(after) >= fits(before)


@pytest.mark.parametrize("what", MORE)
@given(request=any_request, factor=factors)
@settings(max_examples=25)
def test_with_more_who_yields_to_nobody_stays_saved(what, request, factor):
    before = planner.plan(request)
    after = {p.name for p in planner.plan(with_more(request, what, factor=factor)).order}
    certain = {
        pod.name
        for pod, verdict in before.outcomes
        if isinstance(verdict, Saved) and verdict.yields_to is None
    }
    assert certain <= after


@pytest.mark.parametrize("what", MORE)
@given(
    request=requests(pods(priorities=(0,), states=(State.AWAKE,), has_copies=False)),
    factor=factors,
)
@settings(max_examples=25)
def test_with_more_nobody_stops_fitting_among_awake_equals(what, request, factor):
    before = planner.plan(request)
    after = planner.plan(with_more(request, what, factor=factor))
    assert saved(before).keys() <= saved(after).keys()


@pytest.mark.parametrize("what", MORE)
@given(request=any_request, factor=factors)
@settings(max_examples=25)
def test_with_more_all_of_a_node_is_saved_no_later(what, request, factor):
    at_leisure = replace(request, deadline_seconds=1e9)
    faster = replace(with_more(request, what, factor=factor), deadline_seconds=1e9)
    assert planner.plan(faster).seconds <= planner.plan(at_leisure).seconds


@pytest.mark.parametrize("state", UNSAVED)
@given(data=st.data())
@settings(max_examples=30)
def test_no_other_choice_among_equals_saves_more(state, data):
    """Every set of pods is tried, in every manner."""
    alike = pods(priorities=(0,), states=(state,), has_copies=False, has_obstacles=False, most=6)
    request = data.draw(requests(alike))
    number = len(planner.plan(request).order)
    schedules = [Schedule(request, request.pods, m) for m in planner.manners(request)]
    larger = itertools.combinations(range(len(request.pods)), number + 1)
    assert not any(s.fits(places) for places in larger for s in schedules)


@pytest.mark.parametrize(
    "first", [lambda pod: pod.sent_bytes, lambda pod: -pod.sent_bytes], ids=["small", "large"]
)
@given(
    request=requests(
        pods(priorities=(0,), states=(State.AWAKE,), has_copies=False, has_obstacles=False)
    )
)
def test_as_many_equals_are_saved_as_by_taking_what_comes(
    first: Callable[[Pod], int], request: Request
):
    in_turn = sorted(request.pods, key=first)
    numbers = [_first_come(request, in_turn, n) for n in range(1, request.bounds.captures + 1)]
    powers = [n for n in (1, 2, 4, 8, request.bounds.captures) if n <= request.bounds.captures]
    assert len(planner.plan(request).order) >= max(numbers[n - 1] for n in powers)


def _first_come(request: Request, in_turn: Sequence[Pod], captures: int) -> int:
    """Return how many are saved if each pod is taken that is in time behind those before it."""
    pace, taken = Pace.of(request, captures=captures), list[Pod]()
    for pod in in_turn:
        line = Pipeline(pace)
        ends = [line.add(pace.work(other)) for other in (*taken, pod)]
        if max(ends) * SAFETY <= request.deadline_seconds * 1e6:
            taken.append(pod)
    return len(taken)


@given(
    request=any_request,
    places=st.sets(st.integers(0, 11)),
    captures=st.integers(1, 8),
    turn=st.sampled_from(TURNS_BYTES),
)
def test_of_what_fits_each_part_fits(request, places, captures, turn):
    carried_out = Schedule(request, request.pods, Manner(captures=captures, turn_bytes=turn))
    whole = [n for n in places if n < len(request.pods)]
    for n in range(len(whole)):
        part = whole[:n] + whole[n + 1 :]
        assert carried_out.fits(part) or not carried_out.fits(whole)


@given(
    request=requests(
        pods(sizes=st.integers(0, 1 << 45), priorities=(-5, 0, 7)),
        deadlines=(-1e6, 1e12),
    ),
    reachable=st.booleans(),
)
def test_every_pod_has_a_verdict_and_a_reason(request, reachable):
    plan = planner.plan(replace(request, is_store_reachable=reachable))
    for pod, verdict in plan.outcomes:
        assert isinstance(verdict, Stored) == (pod.state is State.STORED)
        if isinstance(verdict, Misfit):
            assert verdict.reason.isalnum()
            assert verdict.text
        elif isinstance(verdict, Saved):
            assert reachable and pod.is_for_store and pod.obstacle is None


def test_a_node_that_is_full_is_planned() -> None:
    full = tuple(
        Pod(name=f"p{n:03}", image_bytes=(n % 40 + 1) * 16 * MIB, priority=n % 3)
        for n in range(110)
    )
    plan = planner.plan(Request(deadline_seconds=115.0, pods=full, cores=8))
    assert 0 < len(plan.order) < 110
