from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.api.keeper import PodState
from architect.api.policy import ContainerPolicy
from architect.daemon import planner
from architect.daemon.activity import Verdict
from architect.daemon.observation import KeeperPod, Refusal
from architect.daemon.planner import Candidate, Disk, History
from architect.daemon.reasons import Kind

ROOM = Disk(free_bytes=100 << 30, used_by_images_bytes=0, floor_bytes=2 << 30, quota_bytes=0)


def candidate(make: Any, name: str, *, since: float = 0.0, memory: int = 64 << 20) -> Candidate:
    return Candidate(
        pod=make.pod(name), verdict=Verdict(reasons=(), idle_since=since), memory_bytes=memory
    )


def test_the_longest_idle_pods_go_first_and_no_more_than_allowed(make: Any) -> None:
    pods = [candidate(make, n, since=s) for n, s in (("a", 3.0), ("b", 1.0), ("c", 2.0))]
    plan = planner.plan(pods, disk=ROOM, under_way=0, most_at_once=2)
    assert plan.sleep == ("uid-b", "uid-c")
    assert plan.waiting["uid-a"].kind is Kind.QUEUED
    assert planner.plan(pods, disk=ROOM, under_way=2, most_at_once=2).sleep == ()


def test_two_pods_that_fit_alone_but_not_together_do_not_start_together(make: Any) -> None:
    disk = Disk(free_bytes=3 << 30, used_by_images_bytes=0, floor_bytes=1 << 30, quota_bytes=0)
    pods = [candidate(make, n, memory=1500 << 20) for n in ("a", "b")]
    plan = planner.plan(pods, disk=disk, under_way=0, most_at_once=2)
    assert plan.sleep == ("uid-a",)
    assert (
        str(plan.waiting["uid-b"]) == "idle; its image needs 1504 MiB, 544 MiB are free for images"
    )


def test_a_full_quota_is_told_with_its_numbers(make: Any) -> None:
    disk = Disk(
        free_bytes=100 << 30, used_by_images_bytes=90 << 20, floor_bytes=0, quota_bytes=100 << 20
    )
    plan = planner.plan([candidate(make, "a")], disk=disk, under_way=0, most_at_once=2)
    assert str(plan.waiting["uid-a"]) == (
        "idle; its image needs 68 MiB, images use 90 MiB of the quota of 100 MiB"
    )


@given(
    memory=st.lists(st.integers(min_value=0, max_value=1 << 36), max_size=12),
    free=st.integers(min_value=0, max_value=1 << 37),
    quota=st.integers(min_value=0, max_value=1 << 37),
    under_way=st.integers(min_value=0, max_value=5),
    most=st.integers(min_value=1, max_value=5),
)
def test_a_plan_never_exceeds_disk_quota_or_number(
    make: Any, memory: list[int], free: int, quota: int, under_way: int, most: int
) -> None:
    pods = [candidate(make, f"p{i}", memory=m) for i, m in enumerate(memory)]
    disk = Disk(free_bytes=free, used_by_images_bytes=0, floor_bytes=1 << 30, quota_bytes=quota)
    plan = planner.plan(pods, disk=disk, under_way=under_way, most_at_once=most)
    size = sum(c.memory_bytes for c in pods if c.pod.uid in plan.sleep)
    assert not plan.sleep or size <= free - (1 << 30)
    assert not plan.sleep or not quota or size <= quota
    assert len(plan.sleep) <= max(0, most - under_way)
    assert set(plan.sleep) | plan.waiting.keys() == {c.pod.uid for c in pods}


def test_a_failed_sleep_is_not_repeated_until_the_policy_or_a_container_changes(
    make: Any,
) -> None:
    pod = make.pod()
    keeper = KeeperPod(
        uid=pod.uid,
        namespace="default",
        name="web",
        state=PodState.AWAKE,
        container_ids={"app": "c1"},
    )
    mark = planner.fingerprint(pod, keeper=keeper)
    refusal = Refusal(reason="IoUring", message="uses io_uring")
    history = planner.failed(History(), refusal, fingerprint=mark)
    (reason,) = planner.history_reasons(history, fingerprint=mark, now=1e9)
    assert str(reason) == (
        "last sleep failed: IoUring: uses io_uring; not tried again until the pod or its policy "
        "changes"
    )
    other = make.pod(policy=make.policy(app=ContainerPolicy(idle_seconds=61)))
    changed = planner.fingerprint(other, keeper=keeper)
    assert planner.history_reasons(history, fingerprint=changed, now=1e9) == []
    restarted = planner.fingerprint(
        pod,
        keeper=KeeperPod(
            uid=pod.uid,
            namespace="default",
            name="web",
            state=PodState.AWAKE,
            container_ids={"app": "c2"},
        ),
    )
    assert restarted != mark


def test_a_sleep_that_was_given_up_waits_longer_each_time_but_not_for_ever() -> None:
    history, waits = History(), []
    for _ in range(40):
        history = planner.given_up(history, "a request is unanswered", now=0.0, jitter=1.0)
        waits.append(history.not_before)
    assert waits[:3] == [5.0, 10.0, 20.0]
    assert max(waits) == planner.WAIT_MAX_SECONDS
    (reason,) = planner.history_reasons(history, fingerprint="", now=300.0)
    assert str(reason) == "a request is unanswered; next try in 5m00s"


def test_short_sleeps_lengthen_the_wait_and_a_long_one_forgets_them() -> None:
    history = planner.slept(History(), now=0.0, took_seconds=0.1)
    history = planner.woke(history, now=1.0, took_seconds=0.1, idle_seconds=60, jitter=1.0)
    assert history.not_before == 66.0
    assert history.waits == 1
    history = planner.slept(history, now=100.0, took_seconds=0.1)
    history = planner.woke(history, now=200.0, took_seconds=0.1, idle_seconds=60, jitter=1.0)
    assert (history.waits, history.not_before) == (0, 0.0)
    assert (
        planner.woke(history, now=300.0, took_seconds=0.1, idle_seconds=60, jitter=1.0) == history
    )


@pytest.mark.parametrize(("lasted", "is_worth_it"), [(3.9, False), (4.1, True)])
def test_a_sleep_is_short_by_what_it_cost(lasted: float, is_worth_it: bool) -> None:
    history = planner.slept(History(), now=0.0, took_seconds=0.15)
    history = planner.woke(history, now=lasted, took_seconds=0.05, idle_seconds=5, jitter=1.0)
    assert (history.waits == 0) is is_worth_it
