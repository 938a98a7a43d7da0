"""The containers of a saved pod stay as long as somebody may still have its address, no longer."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from architect.api import names
from architect.core.errors import Unavailable
from architect.core.identity import Owner
from architect.daemon import shared
from architect.daemon.moves import lingering
from architect.daemon.moves.departures import _stay_of
from architect.daemon.moves.lingering import Lingering, Stay, stay_of
from architect.daemon.moves.views import Family
from architect.kube.api import Api

Json = dict[str, Any]

OWNER = Owner(api_version="apps/v1", kind="ReplicaSet", name="web", uid="owner-1")
FAMILY = Family(namespace="default", owner=OWNER, labels="")
PATH = "/apis/architect.dev/v1alpha1/namespaces/default/checkpoints/old-move"

STEP = lingering.STAY_STEP_SECONDS


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.at: list[tuple[float, Callable[[], None]]] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds
        for event in [e for e in self.at if e[0] <= self.now]:
            self.at.remove(event)
            event[1]()


class World:
    """A saved pod whose end began at 0, by a clock of its own."""

    def __init__(self, cluster: Any, api: Api) -> None:
        self.cluster = cluster
        self.clock = Clock()
        self.lingering = Lingering(api, clock=self.clock.monotonic, sleep=self.clock.sleep)
        self.says("Unknown")

    def says(self, restored: str) -> None:
        self.cluster.put(
            PATH,
            {
                **{"apiVersion": "architect.dev/v1alpha1", "kind": "Checkpoint"},
                "metadata": {
                    "name": "old-move",
                    "namespace": "default",
                    "labels": {names.OWNER_LABEL: "owner-1"},
                },
                "spec": {},
                "status": {"conditions": [{"type": "Restored", "status": restored}]},
            },
        )

    def restored_after(self, seconds: float) -> None:
        self.clock.at.append((self.clock.now + seconds, lambda: self.says("True")))

    def stays(self, *, grace_seconds: float) -> float:
        """Return for how long the pod stays."""
        begun = self.clock.now
        self.lingering.follow(
            stay_of("old-move", FAMILY, started_at=begun, grace_seconds=grace_seconds)
        )
        return self.clock.now - begun


@pytest.fixture
def world(cluster: Any, api: Api, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(cluster, api)
    monkeypatch.setattr(shared, "time", made.clock)
    return made


def test_the_bounds_are_those_that_the_page_names() -> None:
    assert lingering.STAY_SECONDS == 15.0
    assert lingering.STAY_MARGIN_SECONDS == 2.0
    assert lingering.FOLLOW_SECONDS == 1.5


@pytest.mark.parametrize(
    ("grace", "seconds"),
    [(30, 15), (120, 15), (17, 15), (16, 14), (3, 1), (2, 0), (1, -1), (0, -2)],
)
def test_it_ends_before_kubelet_kills(grace: float, seconds: float) -> None:
    found = stay_of("old-move", FAMILY, started_at=1000, grace_seconds=grace)
    assert found == Stay(checkpoint="old-move", family=FAMILY, ends_at=1000 + seconds)


@pytest.mark.parametrize("after", [0.0, 0.1, 3.0, 13.0])
def test_it_stays_until_the_successor_runs_and_a_second_and_a_half_longer(
    world: World, after: float
) -> None:
    if after:
        world.restored_after(after)
    else:
        world.says("True")
    stayed = world.stays(grace_seconds=30)
    assert after + 1.5 <= stayed <= after + 1.5 + STEP


@pytest.mark.parametrize(("grace", "most"), [(30, 15.0), (600, 15.0), (10, 8.0), (2, 0.0)])
def test_without_a_successor_it_stays_as_long_as_it_may_and_no_longer(
    world: World, grace: float, most: float
) -> None:
    assert world.stays(grace_seconds=grace) == pytest.approx(most)


@pytest.mark.parametrize("after", [13.6, 14.9])
def test_a_successor_that_is_late_does_not_keep_it_longer(world: World, after: float) -> None:
    world.restored_after(after)
    assert world.stays(grace_seconds=30) == pytest.approx(15.0)


@pytest.mark.parametrize("grace", [0, 1, 2])
def test_one_without_the_time_does_not_stay_and_asks_nobody(world: World, grace: float) -> None:
    world.says("True")
    assert world.stays(grace_seconds=grace) == 0
    world.lingering.wait(stay_of("old-move", FAMILY, started_at=100, grace_seconds=grace))
    assert world.cluster.requests == []


def test_it_does_not_stay_for_a_successor_that_cannot_come(world: World) -> None:
    world.clock.at.append((world.clock.now + 2, lambda: world.cluster.remove(PATH)))
    assert 2 <= world.stays(grace_seconds=30) <= 2 + STEP


def test_it_does_not_stay_where_nobody_can_be_asked(world: World) -> None:
    world.cluster.failures.append(lambda _: Unavailable("503"))
    assert world.stays(grace_seconds=30) == 0


def test_of_its_time_is_asked_for_four_times_a_second_at_the_most(world: World) -> None:
    world.stays(grace_seconds=30)
    assert 15 / STEP * 0.9 <= len(world.cluster.requests) <= 15 / STEP + 1


def test_an_api_server_that_does_not_answer_does_not_keep_it_longer(cluster: Any, api: Api) -> None:
    asked, answers = threading.Event(), threading.Event()

    def hangs(_: Any) -> None:
        asked.set()
        assert answers.wait(60)

    cluster.failures.append(hangs)
    begun = time.monotonic()
    # Its time is not over before it has asked, however late its thread begins.
    made = Lingering(api, clock=lambda: time.monotonic() if asked.is_set() else begun)
    made.wait(Stay(checkpoint="old-move", family=FAMILY, ends_at=begun + 0.2))
    took = time.monotonic() - begun
    assert asked.wait(60)
    answers.set()
    assert 0.2 <= took < 50


def test_its_end_is_the_answer(cluster: Any, api: Api) -> None:
    World(cluster, api)
    cluster.remove(PATH)
    begun = time.monotonic()
    Lingering(api).wait(Stay(checkpoint="old-move", family=FAMILY, ends_at=begun + 600))
    assert time.monotonic() - begun < 300


def test_a_defect_on_the_way_ends_the_stay_and_is_logged(
    cluster: Any, api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = Lingering(api)
    monkeypatch.setattr(made, "follow", lambda _: [][0])
    made.wait(Stay(checkpoint="old-move", family=FAMILY, ends_at=time.monotonic() + 60))
    assert "who goes on from old-move is not followed" in caplog.text


# Whose containers stay


def test_a_deployments_pod_stays_as_its_own_grace_period_lets_it(node: Any) -> None:
    node.pod("old")
    node.delete("old")  # with 30 s
    leaver = node.departures._look(node.ref("old"))
    stay = _stay_of(leaver, started_at=100)
    assert stay is not None
    assert stay.ends_at == 100 + lingering.STAY_SECONDS  # 0 in these tests
    assert stay.checkpoint == "old-uid-old-move"
    assert stay.family.owner.uid == "owner-1"


def test_one_with_an_ordinal_does_not_stay(node: Any) -> None:
    """Its successor has its name, and waits for its end."""
    node.pod("old")
    node.delete("old")
    leaver = node.departures._look(node.ref("old"))
    numbered = dataclasses.replace(leaver, who=dataclasses.replace(leaver.who, ordinal=0))
    assert _stay_of(numbered, started_at=100) is None


def test_one_that_is_not_deleted_does_not_stay(node: Any) -> None:
    """Its node ends, and its successor is made once it has failed."""
    node.shuts_down = True
    node.pod("old")
    assert _stay_of(node.departures._look(node.ref("old")), started_at=100) is None
