"""A machine that ends, from the notice to its end, against a model of what must hold.

The planner and the course are asked again and again, as rates are learnt, pods come and the store
comes and goes. Whatever they see, each pod hears one thing, and whoever is saved lies in the store.
"""

from __future__ import annotations

from dataclasses import replace

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

from architect.core.obstacles import Obstacle
from architect.daemon.evacuation.course import HOPE, LEFT_ALONE, Course, course
from architect.daemon.spot import planner
from architect.daemon.spot.inputs import Bounds, Pod, Rates, Request, State
from support.tiers import IS_LONG

MIB = 1 << 20
OBSTACLES = (None, None, None, "PersistentVolume", "DaemonSet", "NoController")


class CourseMachine(RuleBasedStateMachine):
    @initialize(notice=st.sampled_from([30.0, 120.0]))
    def a_notice_comes(self, notice: float) -> None:
        self.notice, self.now = notice, 0.0
        self.pods: dict[str, Pod] = {}
        self.told: dict[str, str] = {}
        """By uid: what a pod was told, which is not taken back: to leave, or that it is lost."""
        self.is_reachable = True
        self.rates = Rates()
        self.sent: list[str] = []
        self.course: Course | None = None

    @rule(
        size=st.sampled_from([8, 64, 512, 4096, 65536]),
        priority=st.sampled_from([0, 0, 1000]),
        obstacle=st.sampled_from(OBSTACLES),
        state=st.sampled_from([State.AWAKE, State.AWAKE, State.ASLEEP]),
        is_for_store=st.sampled_from([True, True, True, False]),
    )
    def a_pod_is_there(
        self, size: int, priority: int, obstacle: str | None, state: State, is_for_store: bool
    ) -> None:
        if len(self.pods) < 8:
            name = f"pod-{len(self.pods)}"
            self.pods[f"uid-{name}"] = Pod(
                name=name,
                image_bytes=size * MIB,
                state=state,
                priority=priority,
                is_for_store=is_for_store,
                obstacle=None if obstacle is None else Obstacle(obstacle, "why"),
            )

    @rule(seconds=st.sampled_from([1.0, 5.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.now = min(self.notice, self.now + seconds)

    @rule(is_reachable=st.booleans())
    def the_store_comes_or_goes(self, is_reachable: bool) -> None:
        self.is_reachable = is_reachable

    @rule(factor=st.sampled_from([0.1, 0.5, 1.0, 4.0]))
    def a_rate_is_learnt(self, factor: float) -> None:
        self.rates = replace(Rates(), upload_bytes_per_second=121e6 * factor)

    @rule()
    def the_daemon_looks(self) -> None:
        request = Request(
            deadline_seconds=max(0.0, self.notice - self.now),
            pods=tuple(self.pods.values()),
            cores=4,
            rates=self.rates,
            bounds=Bounds(),
            is_store_reachable=self.is_reachable,
        )
        # Who was told that it is lost gets its signal, and is none of the plan's any more.
        asked = {uid: pod for uid, pod in self.pods.items() if self.told.get(uid) != "lost"}
        request = replace(request, pods=tuple(asked.values()))
        over = self.now / self.notice
        found = self.course = course(planner.plan(request), asked, over=over)
        for uid in found.leave:
            assert self.told.setdefault(uid, "leave") == "leave"
            pod = asked[uid]
            assert pod.obstacle is None
            assert pod.is_for_store
        for uid, why in found.refuse.items():
            pod = asked[uid]
            if self.told.get(uid) == "leave":
                continue  # its capture runs: the departure is not undone by a later look
            is_hopeless = pod.obstacle is not None or not pod.is_for_store
            assert is_hopeless or over >= HOPE, "a pod is told too early that it is lost"
            assert why.reason not in LEFT_ALONE
            self.told[uid] = "lost"
        for uid in found.waiting:
            assert self.told.get(uid) != "lost"
            assert asked[uid].state is not State.CAPTURED
        assert len(set(found.order)) == len(found.order)
        assert set(found.leave) <= set(found.order)
        captured = {uid for uid, pod in asked.items() if pod.state is State.CAPTURED}
        assert captured <= set(found.order), "what is captured is all that is left of its pod"
        assert 1 <= found.captures <= Bounds().captures

    def leaving(self) -> list[str]:
        return [
            uid
            for uid, pod in self.pods.items()
            if self.told.get(uid) == "leave" and pod.state in (State.AWAKE, State.ASLEEP)
        ]

    @precondition(lambda self: bool(self.leaving()))
    @rule(data=st.data())
    def a_pod_is_captured(self, data: st.DataObject) -> None:
        uid = data.draw(st.sampled_from(self.leaving()))
        self.pods[uid] = replace(self.pods[uid], state=State.CAPTURED)

    def captured(self) -> list[str]:
        return [uid for uid, pod in self.pods.items() if pod.state is State.CAPTURED]

    @precondition(lambda self: self.captured() and self.is_reachable)
    @rule(data=st.data())
    def a_pod_is_stored(self, data: st.DataObject) -> None:
        uid = data.draw(st.sampled_from(self.captured()))
        pod = self.pods[uid]
        self.pods[uid] = replace(pod, state=State.STORED, stored_bytes=pod.image_bytes)
        self.sent.append(uid)

    @invariant()
    def what_is_stored_is_asked_nothing_more(self) -> None:
        if getattr(self, "course", None) is None:
            return
        assert self.course is not None
        stored = {uid for uid, pod in self.pods.items() if pod.state is State.STORED}
        assert stored == set(self.sent)

    def teardown(self) -> None:
        """At the end nobody is left without a word who will not be there any more."""
        if not hasattr(self, "pods"):
            return
        self.now = self.notice
        self.the_daemon_looks()
        for uid, pod in self.pods.items():
            is_left_alone = pod.obstacle is not None and pod.obstacle.reason in LEFT_ALONE
            is_safe = pod.state in (State.CAPTURED, State.STORED)
            assert is_left_alone or is_safe or uid in self.told, f"{pod.name} hears nothing"


def test_each_pod_of_a_machine_that_ends_hears_one_thing() -> None:
    run_state_machine_as_test(
        CourseMachine,
        settings=settings(
            max_examples=2000 if IS_LONG else 150, stateful_step_count=40, deadline=None
        ),
    )
