"""The wall clock is set by a day, either way: no pod sleeps, wakes or is lost for that."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from architect.api.keeper import PodState
from architect.api.policy import ContainerPolicy
from architect.daemon import activity, images
from architect.daemon.observation import KeeperPod
from architect.daemon.reasons import Kind

DAY = 86400.0
JUMPS = st.floats(min_value=-DAY, max_value=DAY)
AGES = st.floats(min_value=0.0, max_value=2 * DAY)


@given(jump=JUMPS, age=AGES, idle=st.floats(min_value=1.0, max_value=DAY))
def test_a_warm_up_lasts_as_long_as_it_is_meant(
    make: Any, jump: float, age: float, idle: float
) -> None:
    policy = make.policy(app=ContainerPolicy(idle_seconds=idle, warmup_seconds=3600))
    pod = make.pod(policy=policy)
    track = None
    for now in (0.0, 20.0):
        seen = make.observation(now, started=1e9, age=age + now)
        track = activity.advance(track, seen, pod, cpu_threshold=0.02)
    before, after = (
        activity.judge(track, pod, now=20.0, now_unix=1e9 + age + 20 + by) for by in (0.0, jump)
    )
    assert before == after
    left = [r.left_seconds for r in after.reasons if r.kind is Kind.WARM_UP]
    assert left == ([3600 - age - 20] if age + 20 < 3600 else [])


@given(
    jump=JUMPS,
    slept=AGES,
    ttl=st.floats(min_value=1.0, max_value=2 * DAY),
    has_jumped_before=st.booleans(),
)
def test_a_pod_is_woken_for_its_age_alone(
    jump: float, slept: float, ttl: float, has_jumped_before: bool
) -> None:
    """Whether the clock is set before the pod falls asleep or while it sleeps."""
    fell_asleep = 1e9 + (jump if has_jumped_before else 0.0)
    pod = KeeperPod(
        uid="uid",
        namespace="shop",
        name="web",
        state=PodState.ASLEEP,
        since_unix=fell_asleep,
        since_boot=5000.0,
    )
    woken = images.to_wake(
        [pod], now_boot=5000.0 + slept, now_unix=1e9 + jump + slept, ttl_seconds=ttl
    )
    assert bool(woken) is (5000.0 + slept - 5000.0 > ttl)
