"""The driver, from a notice to the machine's end or the notice's withdrawal."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest

from architect.core.errors import NodeError
from architect.core.interruption import Interruption
from architect.core.obstacles import Obstacle
from architect.daemon.evacuation import evacuation as driving
from architect.daemon.evacuation.course import HOPE, Told
from architect.daemon.evacuation.evacuation import Evacuation
from architect.daemon.notices.board import Change, ChangeKind
from architect.daemon.notices.notice import Kind, Notice
from architect.daemon.pods import ManagedPod
from architect.daemon.spot.inputs import Pod, Request, State
from support.runtime import eventually

MIB = 1 << 20
WALL = 1_800_000_000.0


class Managed:
    """What the driver needs of a pod."""

    def __init__(self, uid: str) -> None:
        self.uid = uid
        self.full_name = uid


class Store:
    """The pods that the watch tells of."""

    def __init__(self) -> None:
        self.is_synced = True
        self.managed: dict[str, Managed] = {}

    def get(self, uid: str) -> Managed | None:
        return self.managed.get(uid)


class Survey:
    """The same pods as the planner is told of them."""

    def __init__(self) -> None:
        self.sizes: dict[str, Pod] = {}

    def pods(self) -> dict[str, Pod]:
        return dict(self.sizes)

    def request(self, deadline_seconds: float, *, pods: Mapping[str, Pod] | None = None) -> Request:
        found = self.sizes if pods is None else pods
        return Request(deadline_seconds=deadline_seconds, pods=tuple(found.values()), cores=4)


class Leaving:
    """Who is told what."""

    def __init__(self) -> None:
        self.left: list[str] = []
        self.refused: dict[str, str] = {}
        self.released = 0

    def evacuate(self, pod: ManagedPod) -> None:
        if pod.uid not in self.left:
            self.left.append(pod.uid)

    def refuse(self, pod: ManagedPod, *, reason: str, message: str) -> bool:
        assert message
        self.refused[pod.uid] = reason
        return True

    def release(self) -> None:
        self.released += 1


class Marks:
    """What the node says."""

    def __init__(self) -> None:
        self.wanted: list[Interruption | None] = []
        self.before: bool | None = False

    def want(self, said: Interruption | None) -> None:
        if self.wanted[-1:] != [said]:
            self.wanted.append(said)

    def was_marked(self) -> bool | None:
        return self.before


class World:
    """A node, whose time does not move by itself."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.notices: list[Notice] = []
        self.store, self.survey = Store(), Survey()
        self.leaving, self.marks = Leaving(), Marks()
        self.orders: list[tuple[str, ...]] = []
        self.said: list[Told] = []
        self.hurried: list[bool] = []
        self.start()

    def start(self) -> None:
        """Have a new daemon."""
        self.evacuation = Evacuation(
            standing=lambda: tuple(self.notices),
            survey=self.survey,
            pods=cast(Any, self.store),
            departures=self.leaving,
            marking=cast(Any, self.marks),
            prefer=self._prefer,
            hurry=self.hurried.append,
            tell=lambda notice, told: self.said.append(told),
            clock=lambda: self.now,
            wall=lambda: WALL + self.now,
            step_seconds=0.01,
        )

    def _prefer(self, order: Sequence[str], at_once: int | None) -> None:
        self.orders.append(tuple(order))

    def look(self, *, after: float = 0.0) -> None:
        self.now += after
        self.evacuation.look()

    def pod(self, name: str, size: int = 16 * MIB, **more: Any) -> None:
        self.survey.sizes[f"uid-{name}"] = Pod(name=f"ns/{name}", image_bytes=size, **more)
        self.store.managed[f"uid-{name}"] = Managed(f"uid-{name}")

    def notice(
        self, *, seconds: float | None, kind: Kind = Kind.INTERRUPTION, id: str = "spot"
    ) -> None:
        self.notices = [
            Notice(
                kind=kind,
                source="aws",
                id=id,
                said="terminate",
                ends_unix=None,
                deadline=None if seconds is None else self.now + seconds,
            )
        ]


@pytest.fixture
def world() -> World:
    return World()


def test_a_node_of_which_nothing_is_announced_is_left_alone(world: World) -> None:
    world.pod("a")
    world.look()
    assert not world.evacuation.is_under_way()
    assert not world.evacuation.is_urgent
    assert (world.marks.wanted, world.orders, world.leaving.left) == ([], [], [])


def test_at_a_notice_the_node_is_marked_and_its_pods_leave_in_order(world: World) -> None:
    world.pod("a")
    world.pod("b", priority=5)
    world.notice(seconds=120)
    world.look()
    assert world.evacuation.is_under_way()
    (mark,) = world.marks.wanted
    assert mark is not None
    assert (mark.kind, mark.source) == ("interruption", "aws")
    assert mark.ends == datetime.datetime.fromtimestamp(WALL + 1120, tz=datetime.UTC)
    assert world.leaving.left == ["uid-b", "uid-a"]
    assert world.orders == [("uid-b", "uid-a")]
    (said,) = world.said
    assert (said.saved, said.pods, said.bytes, said.misfits) == (2, 2, 32 * MIB, ())
    assert 0 < said.seconds < 115


def test_it_is_planned_again_and_told_once(world: World) -> None:
    world.pod("a")
    world.notice(seconds=120)
    world.look()
    world.pod("late")
    world.look(after=1)
    assert world.leaving.left == ["uid-a", "uid-late"]
    assert len(world.marks.wanted) == len(world.said) == 1


@pytest.mark.parametrize("kind", [Kind.INTERRUPTION, Kind.MAINTENANCE])
def test_an_end_without_a_time_is_urgent_and_somebody_elses(world: World, kind: Kind) -> None:
    world.pod("a")
    world.notice(seconds=None, kind=kind)
    world.look()
    assert world.evacuation.is_urgent
    assert world.hurried == [True]
    assert not world.evacuation.is_under_way()
    assert (world.marks.wanted, world.leaving.left) == ([], [])


def test_an_end_that_is_far_away_is_waited_for(world: World) -> None:
    world.pod("a")
    world.notice(seconds=14 * 86400, kind=Kind.MAINTENANCE)
    world.look()
    assert not world.evacuation.is_under_way()
    assert not world.evacuation.is_urgent
    assert (world.marks.wanted, world.leaving.left, world.hurried) == ([], [], [])
    world.look(after=14 * 86400 - driving.AHEAD_SECONDS)
    assert world.leaving.left == ["uid-a"]
    assert world.hurried == [True]


def test_a_near_end_that_is_withdrawn_is_no_reason_to_begin_for_a_far_one(world: World) -> None:
    world.pod("a")
    world.notice(seconds=14 * 86400, kind=Kind.MAINTENANCE, id="maintenance")
    far = world.notices
    world.notice(seconds=120)
    world.notices = [*world.notices, *far]
    world.look()
    assert world.leaving.left == ["uid-a"]
    world.notices = far
    world.pod("b")
    world.look(after=5)
    assert world.leaving.left == ["uid-a"]
    assert world.leaving.released == 1
    assert world.marks.wanted[-1] is None
    assert not world.evacuation.is_urgent


def test_a_node_that_needs_long_begins_early_and_goes_on(world: World) -> None:
    world.pod("large", 64 << 30)  # at the default rates it takes about 17 minutes
    world.notice(seconds=86400)
    world.look()
    assert world.leaving.left == []
    world.look(after=86400 - 1500)
    assert world.leaving.left == ["uid-large"]
    world.survey.sizes["uid-large"] = Pod(name="ns/large", image_bytes=64 << 30, state=State.STORED)
    world.look(after=1)
    assert world.evacuation.is_under_way()
    assert world.leaving.released == 0


def test_a_machine_that_is_only_likely_to_end_is_no_reason(world: World) -> None:
    world.pod("a")
    world.notice(seconds=120, kind=Kind.REBALANCE)
    world.look()
    assert not world.evacuation.is_urgent
    assert world.leaving.left == []


def test_who_has_no_time_is_told_in_the_middle_with_the_reason(world: World) -> None:
    world.pod("large", 64 << 30)
    world.pod("small")
    world.pod("volume", obstacle=Obstacle("PersistentVolume", "writable volume data"))
    world.notice(seconds=120)
    world.look()
    assert world.leaving.refused == {"uid-volume": "PersistentVolume"}
    assert world.said[0].misfits == ("ns/large (TooLarge)", "ns/volume (PersistentVolume)")
    world.look(after=120 * HOPE - 1)
    assert "uid-large" not in world.leaving.refused
    world.look(after=1)
    assert world.leaving.refused["uid-large"] == "TooLarge"
    assert world.leaving.left == ["uid-small"]


def test_a_pod_for_which_there_is_time_after_all_is_saved(world: World) -> None:
    world.pod("large", 64 << 30)
    world.notice(seconds=120)
    world.look()
    world.pod("large", 64 * MIB)
    world.look(after=10)
    assert world.leaving.left == ["uid-large"]
    assert [told.saved for told in world.said] == [0, 1]


def test_another_notice_that_ends_earlier_counts(world: World) -> None:
    world.pod("a")
    world.notice(seconds=120)
    world.look()
    world.notice(seconds=30, id="second")
    world.look(after=10)
    ends = [mark.ends for mark in world.marks.wanted if mark is not None and mark.ends is not None]
    assert [end.timestamp() - WALL for end in ends] == [1120.0, 1030.0]
    assert len(world.said) == 2


def test_after_a_withdrawal_all_is_as_before(world: World) -> None:
    world.pod("a")
    world.notice(seconds=120)
    world.look()
    world.notices = []
    world.look(after=5)
    assert world.leaving.released == 1
    assert world.marks.wanted[-1] is None
    assert world.orders[-1] == ()
    assert world.hurried == [True, False]
    assert not world.evacuation.is_under_way()
    world.look(after=5)
    assert world.leaving.released == 1, "once"
    world.notice(seconds=120)
    world.look(after=5)
    assert world.evacuation.is_under_way()
    assert world.marks.wanted[-1] is not None
    assert len(world.said) == 2


def test_pods_that_are_not_known_yet_are_waited_for(world: World) -> None:
    world.pod("a")
    world.store.is_synced = False
    world.notice(seconds=120)
    world.look()
    assert world.marks.wanted, "the node is marked at once"
    assert world.leaving.left == []
    world.store.is_synced = True
    world.look(after=1)
    assert world.leaving.left == ["uid-a"]


def test_a_pod_that_is_captured_and_gone_from_the_api_is_sent(world: World) -> None:
    world.pod("a", state=State.CAPTURED)
    world.store.managed.clear()
    world.notice(seconds=120)
    world.look()
    assert world.orders == [("uid-a",)]


def test_a_daemon_that_starts_in_between_believes_the_node_until_its_sources_speak(
    world: World,
) -> None:
    world.marks.before = True
    world.start()
    world.look()
    assert world.evacuation.is_under_way(), "nothing is taken back yet"
    world.notice(seconds=60)
    world.look(after=5)
    world.notices = []
    world.look(after=5)
    assert world.marks.wanted[-1] is None
    assert not world.evacuation.is_under_way()


def test_what_an_earlier_daemon_marked_goes_if_nobody_says_it_any_more(world: World) -> None:
    world.marks.before = True
    world.start()
    world.look()
    world.look(after=driving.SETTLE_SECONDS - 1)
    assert world.marks.wanted == []
    world.look(after=1)
    assert world.marks.wanted == [None]
    assert not world.evacuation.is_under_way()


def test_whether_it_was_marked_is_asked_until_somebody_tells(world: World) -> None:
    world.marks.before = None
    world.start()
    world.look()
    assert world.evacuation.is_under_way()
    world.marks.before = False
    world.look(after=1)
    assert not world.evacuation.is_under_way()


@contextmanager
def running(world: World) -> Iterator[threading.Thread]:
    """Have its thread run for the block, and end when it is asked to."""
    stop = threading.Event()
    thread = threading.Thread(target=world.evacuation.run, args=(stop,), daemon=True)
    thread.start()
    yield thread
    stop.set()
    world.evacuation.close()
    thread.join(30)
    assert not thread.is_alive()


def test_what_fails_once_is_done_in_the_next_round(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    troubles = [NodeError("no such file", reason="Gone"), OSError(5, "Input/output error")]
    pods = world.survey.pods

    def failing() -> dict[str, Pod]:
        if troubles:
            raise troubles.pop()
        return pods()

    monkeypatch.setattr(world.survey, "pods", failing)
    world.pod("a")
    world.notice(seconds=120)
    with running(world):
        eventually(lambda: world.leaving.left, what="the pod leaves")
    assert world.leaving.left == ["uid-a"]
    assert troubles == []


def test_it_hears_at_once_and_ends_when_it_is_asked_to(world: World) -> None:
    with running(world) as thread:
        world.pod("a")
        world.notice(seconds=120)
        change = Change(kind=ChangeKind.APPEARED, notice=world.notices[0])
        for _ in range(3000):
            world.evacuation.announced(change)
            if world.leaving.left:
                break
            thread.join(0.01)
        assert world.leaving.left == ["uid-a"]
