"""Pods of a node that sleep when the planner says so, against a model of what must hold.

Sleeps fail, are given up and end too soon; the disk fills; pods change. Whatever happens, no more
is begun than may be, nothing that failed is tried again unchanged, and who can sleep does in the
end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from architect.daemon import planner
from architect.daemon.activity import Verdict
from architect.daemon.observation import Refusal
from architect.daemon.planner import Candidate, Disk, History
from support.tiers import IS_LONG
from unit.daemon.conftest import Builders

IDLE_SECONDS = 60.0
FLOOR_BYTES = 1 << 30
LONGEST_SECONDS = IDLE_SECONDS + 2 * 600.0
"""More than any wait, with its share of chance: ten minutes, said the documentation."""


@dataclass
class Pod:
    """One, as it is."""

    uid: str
    memory_bytes: int
    version: int = 0
    is_asleep: bool = False
    is_falling: bool = False
    image_bytes: int = 0
    idle_since: float = 0.0
    history: History = field(default_factory=History)
    failed_as: int | None = None
    """Its version when its last sleep failed."""
    tried_at: float | None = None
    """When a sleep was given up, or ended too soon."""
    short_sleeps: int = 0

    @property
    def fingerprint(self) -> str:
        return f"{self.uid}/{self.version}"


class PlannerMachine(RuleBasedStateMachine):
    @initialize(
        memory=st.lists(st.integers(1, 4), min_size=1, max_size=4),
        disk=st.integers(2, 12),
        quota=st.sampled_from([0, 6]),
        most=st.integers(1, 3),
    )
    def a_node_begins(self, memory: list[int], disk: int, quota: int, most: int) -> None:
        self.now = 1000.0
        self.pods = [Pod(f"uid-{n}", size << 29) for n, size in enumerate(memory)]
        self.disk_bytes, self.quota_bytes = disk << 29, quota << 29
        self.most = most

    @property
    def used_bytes(self) -> int:
        return sum(pod.image_bytes for pod in self.pods)

    def look(self) -> None:
        """Do what the daemon's loop does: judge, plan, begin."""
        candidates = []
        for pod in self.pods:
            if pod.is_asleep or pod.is_falling:
                continue
            reasons = planner.history_reasons(
                pod.history, fingerprint=pod.fingerprint, now=self.now
            )
            if self.now - pod.idle_since < IDLE_SECONDS or reasons:
                continue
            candidates.append(
                Candidate(
                    pod=Builders().pod(pod.uid.removeprefix("uid-")),
                    verdict=Verdict(reasons=(), idle_since=pod.idle_since),
                    memory_bytes=pod.memory_bytes,
                )
            )
        falling = [pod for pod in self.pods if pod.is_falling]
        plan = planner.plan(
            candidates,
            # What falls asleep has not taken its place yet, as statvfs sees it.
            disk=Disk(
                free_bytes=self.disk_bytes - self.used_bytes,
                used_by_images_bytes=self.used_bytes,
                floor_bytes=FLOOR_BYTES,
                quota_bytes=self.quota_bytes,
            ),
            under_way=len(falling),
            most_at_once=self.most,
        )
        chosen = [pod for pod in self.pods if pod.uid in plan.sleep]
        assert len(falling) + len(chosen) <= self.most
        needed = sum(pod.memory_bytes for pod in chosen)
        if chosen:
            assert self.disk_bytes - self.used_bytes - needed >= FLOOR_BYTES
            assert not self.quota_bytes or self.used_bytes + needed <= self.quota_bytes
        for pod in chosen:
            assert pod.failed_as != pod.version, "what failed is tried again, unchanged"
            if pod.tried_at is not None:
                assert self.now > pod.tried_at, "what was given up is tried again at once"
            pod.is_falling = True
        # Nobody is passed over who has been idle for longer and would fit.
        for uid in plan.waiting:
            assert uid not in plan.sleep

    @rule(seconds=st.sampled_from([1.0, 30.0, 61.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.look()

    def falling(self) -> list[str]:
        return [pod.uid for pod in self.pods if pod.is_falling]

    def asleep(self) -> list[str]:
        return [pod.uid for pod in self.pods if pod.is_asleep]

    def draw(self, data: st.DataObject, uids: list[str]) -> Pod:
        uid = data.draw(st.sampled_from(uids))
        return next(pod for pod in self.pods if pod.uid == uid)

    @precondition(lambda self: bool(self.falling()))
    @rule(data=st.data(), end=st.sampled_from(["slept", "slept", "failed", "given up"]))
    def a_sleep_ends(self, data: st.DataObject, end: str) -> None:
        pod = self.draw(data, self.falling())
        pod.is_falling = False
        if end == "slept":
            pod.history = planner.slept(pod.history, now=self.now, took_seconds=0.1)
            pod.is_asleep, pod.image_bytes = True, pod.memory_bytes
            pod.failed_as = None
        elif end == "failed":
            refusal = Refusal(reason="IoUring", message="a ring", hint="")
            pod.history = planner.failed(pod.history, refusal, fingerprint=pod.fingerprint)
            pod.failed_as = pod.version
        else:
            jitter = data.draw(st.floats(0, 1))
            before = pod.history.not_before
            pod.history = planner.given_up(pod.history, "busy", now=self.now, jitter=jitter)
            assert pod.history.not_before >= min(before, self.now)
            pod.tried_at = self.now

    @rule(data=st.data(), times=st.integers(1, 20))
    def a_pod_is_refused_for_weeks(self, data: st.DataObject, times: int) -> None:
        pod = self.draw(data, [pod.uid for pod in self.pods])
        if pod.is_asleep or pod.is_falling:
            return
        for _ in range(times):
            pod.history = planner.given_up(pod.history, "busy", now=self.now, jitter=1.0)
            assert pod.history.not_before > self.now
        pod.tried_at = self.now

    @precondition(lambda self: bool(self.asleep()))
    @rule(data=st.data(), jitter=st.floats(0, 1))
    def a_pod_wakes(self, data: st.DataObject, jitter: float) -> None:
        pod = self.draw(data, self.asleep())
        slept_at = pod.history.slept_at
        assert slept_at is not None
        pod.history = planner.woke(
            pod.history,
            now=self.now,
            took_seconds=0.1,
            idle_seconds=IDLE_SECONDS,
            jitter=jitter,
        )
        is_short = self.now - slept_at < planner.WORTHWHILE_RATIO * 0.2
        pod.short_sleeps = pod.short_sleeps + 1 if is_short else 0
        assert pod.history.not_before > self.now or not is_short, "a short sleep costs nothing"
        assert is_short or not pod.history.waits, "a long sleep is held against it"
        pod.tried_at = self.now if is_short else None
        pod.is_asleep, pod.image_bytes, pod.idle_since = False, 0, self.now

    @rule(data=st.data())
    def a_pod_changes(self, data: st.DataObject) -> None:
        pod = self.draw(data, [pod.uid for pod in self.pods])
        if not pod.is_asleep:
            pod.version += 1

    @rule(data=st.data())
    def a_pod_is_busy(self, data: st.DataObject) -> None:
        pod = self.draw(data, [pod.uid for pod in self.pods])
        if not pod.is_asleep:
            pod.idle_since = self.now

    @invariant()
    def no_wait_is_for_ever(self) -> None:
        for pod in getattr(self, "pods", ()):
            assert pod.history.not_before - self.now <= LONGEST_SECONDS

    def teardown(self) -> None:
        """Left alone, everybody sleeps whose sleep did not fail and who fits."""
        if not hasattr(self, "pods"):
            return
        for _ in range(3 * len(self.pods)):
            for pod in self.pods:
                if pod.is_falling:
                    pod.is_falling, pod.is_asleep = False, True
                    pod.image_bytes = pod.memory_bytes
            self.now += LONGEST_SECONDS
            self.look()
        for pod in self.pods:
            needed = pod.memory_bytes + planner.IMAGE_OVERHEAD_BYTES
            fits = self.disk_bytes - self.used_bytes - needed >= FLOOR_BYTES and (
                not self.quota_bytes or self.used_bytes + needed <= self.quota_bytes
            )
            if pod.failed_as != pod.version and fits:
                assert pod.is_asleep or pod.is_falling, f"{pod} never sleeps"


def test_who_can_sleep_does_and_no_more_than_may() -> None:
    run_state_machine_as_test(
        PlannerMachine,
        settings=settings(
            max_examples=2000 if IS_LONG else 150, stateful_step_count=40, deadline=None
        ),
    )
