"""The planner: what it says of nodes that can be worked out on paper."""

from __future__ import annotations

import dataclasses
import math

import pytest

from architect.checkpoint import envelope
from architect.core.obstacles import Obstacle
from architect.daemon.settings import DaemonSettings
from architect.daemon.spot import inputs, pipeline, planner
from architect.daemon.spot.inputs import Bounds, Pod, Rates, Request, State
from architect.daemon.spot.planner import Misfit, Saved, Stored, Verdict
from architect.daemon.spot.schedule import SAFETY
from architect.daemon.vault import streams
from support.spot import saved

MB = 10**6
EVEN = Rates(
    capture_fixed_seconds=1.0,
    dump_bytes_per_second_per_core=100 * MB,
    hash_bytes_per_second_per_core=math.inf,
    disk_bytes_per_second=math.inf,
    seal_bytes_per_second_per_core=math.inf,
    upload_bytes_per_second=50 * MB,
    upload_object_seconds=0.0,
)
"""A pod of 100 MB is captured in 2 s and sent in 2 s."""
GRAIN = 8 * 1024**2 / (50 * MB)
"""An object of 8 MiB."""


def node(*pods: Pod, seconds: float = 60.0, rates: Rates = EVEN) -> Request:
    return Request(
        deadline_seconds=seconds,
        pods=pods,
        cores=16,
        rates=rates,
        bounds=Bounds(captures=2, objects=1),
    )


def pod(name: str, megabytes: int = 100, **more: object) -> Pod:
    return dataclasses.replace(Pod(name=name, image_bytes=megabytes * MB), **more)  # type: ignore[arg-type]


def verdict(request: Request, name: str) -> Verdict:
    return next(v for p, v in planner.plan(request).outcomes if p.name == name)


def misfit(request: Request, name: str) -> tuple[str, str]:
    found = verdict(request, name)
    assert isinstance(found, Misfit)
    return found.reason, found.text


def test_one_pod_takes_its_capture_and_its_way_and_may_wait_for_an_object_of_another() -> None:
    (found,) = saved(planner.plan(node(pod("a")))).values()
    # Captured, sent, one object of its own and one of somebody else that cannot be interrupted.
    assert found == pytest.approx(SAFETY * (2 + 2 + 2 * GRAIN), abs=1e-5)


def test_what_sleeps_is_not_dumped_and_what_is_captured_is_only_sent() -> None:
    for state, capture in ((State.AWAKE, 2), (State.ASLEEP, 1), (State.CAPTURED, 0)):
        (found,) = saved(planner.plan(node(pod("a", state=state)))).values()
        assert found == pytest.approx(SAFETY * (capture + 2 + 2 * GRAIN), abs=1e-5)


def test_pods_are_sent_while_others_are_captured() -> None:
    plan = planner.plan(node(*(pod(name) for name in "abcd")))
    assert [p.name for p in plan.order] == list("abcd")
    # Two at once: the first is captured after 2 s. From then on there is always one to be sent.
    assert plan.manner.captures == 2
    assert saved(plan)["d"] == pytest.approx(SAFETY * (2 + 4 * 2 + 2 * GRAIN), abs=1e-5)


def test_an_earlier_copy_is_dumped_and_not_sent_again() -> None:
    (found,) = saved(planner.plan(node(pod("a", stored_bytes=100 * MB)))).values()
    assert found == pytest.approx(SAFETY * (2 + GRAIN), abs=1e-5)


def test_a_pod_that_lies_in_the_store_needs_nothing_and_nobody() -> None:
    there = pod("a", state=State.STORED)
    for request in (
        node(there, seconds=-1),
        dataclasses.replace(node(there), is_store_reachable=False),
        node(there, rates=Rates(upload_bytes_per_second=0)),
    ):
        assert verdict(request, "a") == Stored()
        assert planner.plan(request).order == ()


def test_who_matters_more_is_saved_though_many_others_would_fit_instead() -> None:
    small = [pod(f"small-{n}", 10) for n in range(5)]
    large = pod("large", 400, priority=1, state=State.CAPTURED)
    request = node(large, *small, seconds=10.5)
    plan = planner.plan(request)
    assert [p.name for p in plan.order] == ["large"]
    assert misfit(request, "small-0") == ("NoTimeLeft", "those before it take the time")
    request = dataclasses.replace(request, pods=tuple(small))
    assert len(planner.plan(request).order) == 5


def test_who_matters_more_is_saved_though_captured_otherwise_many_others_would_be() -> None:
    rates = dataclasses.replace(EVEN, capture_fixed_seconds=0.0, upload_bytes_per_second=math.inf)
    small = [pod(f"small-{n}") for n in range(5)]
    request = dataclasses.replace(
        node(pod("large", 1000, priority=1), *small, seconds=14.0, rates=rates), cores=2
    )
    # One core captures: the large one within 10 s by itself, or within 20 beside another.
    plan = planner.plan(request)
    assert sorted(saved(plan)) == ["large", "small-0"]
    assert plan.manner.captures == 1
    request = dataclasses.replace(request, pods=tuple(small))
    assert len(planner.plan(request).order) == 5


def test_why_a_pod_does_not_fit_does_not_depend_on_how_the_others_are_captured() -> None:
    rates = dataclasses.replace(EVEN, upload_bytes_per_second=math.inf)
    above = (pod("first", priority=1), pod("second", 1000, priority=1))
    small = [pod(f"small-{n:02}", 1) for n in range(12)]
    for pods, captures in ((above, 1), ((*above, *small), 2)):
        request = dataclasses.replace(node(*pods, seconds=14.0, rates=rates), cores=2)
        assert planner.plan(request).manner.captures == captures
        # By itself it is captured within 11 s; beside another one it would be 21.
        assert misfit(request, "second")[0] == "NoTimeLeft"


def test_among_equals_the_small_ones_are_saved() -> None:
    request = node(pod("large", 400), *(pod(f"small-{n}", 10) for n in range(5)), seconds=16.8)
    assert sorted(saved(planner.plan(request))) == [f"small-{n}" for n in range(5)]


def test_what_is_too_large_keeps_nobody_from_being_saved_and_is_named() -> None:
    request = node(pod("huge", 4000, priority=9), pod("a"), seconds=20.0)
    assert misfit(request, "huge") == ("TooLarge", "alone it would take 151.7 s")
    found = verdict(request, "a")
    assert isinstance(found, Saved)
    assert found.yields_to == "huge"
    first = node(pod("huge", 4000, priority=-9), pod("a"), seconds=20.0)
    assert isinstance(verdict(first, "huge"), Misfit)
    found = verdict(first, "a")
    assert isinstance(found, Saved)
    assert found.yields_to is None


def test_what_cannot_be_saved_whatever_the_time_says_why_and_is_yielded_to_by_nobody() -> None:
    hindered = pod("a", obstacle=Obstacle("PersistentVolume", "volume data is not its own"))
    kept = pod("b", is_for_store=False)
    request = node(hindered, kept, pod("c"))
    assert misfit(request, "a") == ("PersistentVolume", "volume data is not its own")
    assert misfit(request, "b") == ("StaysOnNode", "it is not for the object store")
    found = verdict(request, "c")
    assert isinstance(found, Saved)
    assert found.yields_to is None


def test_a_store_that_does_not_answer_is_named() -> None:
    request = dataclasses.replace(node(pod("a")), is_store_reachable=False)
    assert misfit(request, "a") == ("StoreUnreachable", "the object store does not answer")


@pytest.mark.parametrize("seconds", [0.0, -5.0, -math.inf, math.nan])
def test_without_any_time_nothing_is_saved(seconds: float) -> None:
    assert misfit(node(pod("a"), seconds=seconds), "a")[0] == "NoTime"


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, 1e-300])
@pytest.mark.parametrize("name", [n for n in vars(Rates()) if "bytes_per_second" in n])
@pytest.mark.parametrize("seconds", [60.0, math.inf])
def test_what_does_not_move_is_told_so(name: str, rate: float, seconds: float) -> None:
    rates = dataclasses.replace(EVEN, **{name: rate})
    request = node(pod("a"), pod("b"), seconds=seconds, rates=rates)
    still = "nothing, to speak of" if rate > 0 else name
    expected = ("NoRate", f"it would never end; without speed: {still}")
    assert misfit(request, "a") == misfit(request, "b") == expected


@pytest.mark.parametrize("seconds", [math.inf, math.nan])
@pytest.mark.parametrize("name", ["capture_fixed_seconds", "upload_object_seconds"])
def test_what_takes_for_ever_is_told_so(name: str, seconds: float) -> None:
    rates = dataclasses.replace(EVEN, **{name: seconds})
    text = f"it would never end; without speed: {name}"
    assert misfit(node(pod("a"), rates=rates), "a") == ("NoRate", text)


def test_a_sleeping_pod_needs_no_dump() -> None:
    rates = dataclasses.replace(EVEN, dump_bytes_per_second_per_core=0.0)
    assert isinstance(verdict(node(pod("a", state=State.ASLEEP), rates=rates), "a"), Saved)


def test_numbers_that_cannot_be_count_as_none() -> None:
    odd = [pod("a", -5), pod("b", 5, stored_bytes=-7 * MB), pod("c", 5, stored_bytes=9 * MB)]
    rates = dataclasses.replace(EVEN, capture_fixed_seconds=-1.0, upload_object_seconds=-1.0)
    request = Request(
        deadline_seconds=9.0,
        pods=tuple(odd),
        cores=-3,
        rates=rates,
        bounds=Bounds(captures=0, objects=-1),
    )
    plan = planner.plan(request)
    assert (plan.manner.captures, plan.objects) == (1, 1)
    assert sorted(saved(plan)) == ["a", "b", "c"]
    assert planner.plan(dataclasses.replace(request, pods=())).outcomes == ()


def test_with_time_without_end_every_pod_is_saved() -> None:
    plan = planner.plan(node(*(pod(name) for name in "abc"), seconds=math.inf))
    assert len(saved(plan)) == 3
    assert plan.seconds == max(saved(plan).values()) < math.inf


def test_what_is_sent_for_long_goes_first_where_the_streams_would_be_idle() -> None:
    rates = dataclasses.replace(EVEN, dump_bytes_per_second_per_core=math.inf)
    small = [pod(f"small-{n}", 1) for n in range(12)]
    plan = planner.plan(node(pod("large", 250), *small, seconds=60.0, rates=rates))
    assert plan.order[0].name == "large"
    # 6.5 s of captures, and meanwhile 5 s of the large one.
    assert plan.seconds < SAFETY * 7.5
    # Whoever matters more goes first all the same.
    first = pod("first", 1, priority=1)
    plan = planner.plan(node(pod("large", 250), *small, first, seconds=60.0, rates=rates))
    assert plan.order[0].name == "first"


def test_the_model_knows_the_daemon() -> None:
    assert pipeline.OBJECT_BYTES == envelope.SHARD_BYTES
    assert Bounds().objects == streams.AT_ONCE == DaemonSettings.store_upload_streams
    assert Bounds().captures == DaemonSettings.max_concurrent_captures


def test_of_a_notice_the_reserve_is_not_planned_with() -> None:
    assert inputs.usable_seconds(120) == 120 - inputs.RESERVE_SECONDS
    assert inputs.usable_seconds(1) < 0
