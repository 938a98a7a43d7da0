"""Nodes that end: who waits goes, what was left is adopted, and only then pods are let go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from architect.api import names
from architect.core.errors import Unavailable
from architect.core.interruption import Interruption
from architect.kube import checkpoints, conditions
from architect.kube.checkpoints import CheckpointSpec, Trigger
from architect.kube.resources import CHECKPOINTS, LEASES, pod
from architect.operator import machines, metrics
from architect.operator import watchman as watching
from architect.operator.dismisser import Dismisser
from architect.operator.plan import Mark
from architect.operator.watchman import Watchman
from support import strandeds
from support.strandeds import NAMESPACE, NODE, NODE_PATH, POD_PATH, UID

Object = dict[str, Any]

START = datetime(2030, 1, 1, 12, tzinfo=UTC)
LEASE_PATH = LEASES.path(namespace="kube-node-lease", name=NODE)


class Adopter:
    """Stands in for the store's part; *is_away*: the store is."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.is_away = False
        self.asked: list[tuple[float, set[str], bool]] = []
        """When, for which nodes, and whether the node was marked by then."""

    def adopt(self, nodes: Any) -> bool:
        self.asked.append((self.world.now, set(nodes), self.world.is_marked()))
        return not self.is_away


class World:
    """A node with a pod, and a clock that the test moves."""

    def __init__(self, api: Any, server: Any, applier: Any, numbers: Any, **more: Any) -> None:
        self.server, self.numbers = server, numbers
        self.now = 0.0
        self.adopter = Adopter(self)
        self.watchman = Watchman(
            api,
            applier,
            numbers,
            Dismisser(api, applier),
            self.adopter,  # type: ignore[arg-type]
            marks=more.pop("marks", True),
            clock=lambda: self.now,
        )
        server.put(POD_PATH, strandeds.its_pod())
        self.renew()

    def renew(self) -> None:
        at = START + timedelta(seconds=self.now)
        value = {"metadata": {"name": NODE}, "spec": {"renewTime": conditions.micro_timestamp(at)}}
        self.server.put(LEASE_PATH, value)

    def put(self, **changes: Any) -> None:
        """Have the node be so, and its watch tell of it."""
        before = self.server.objects.get(NODE_PATH, {})
        value = strandeds.node(**changes)
        kept = (before.get("metadata") or {}).get("annotations") or {}
        if names.OUT_OF_SERVICE in kept:
            value["metadata"]["annotations"][names.OUT_OF_SERVICE] = kept[names.OUT_OF_SERVICE]
        value["spec"] = before.get("spec") or {}
        self.server.put(NODE_PATH, value)
        self.tell()

    def tell(self) -> None:
        self.watchman.changed(self.server.objects[NODE_PATH])

    def run(self, until: float, *, is_alive: bool = False) -> None:
        """Look every second."""
        while self.now < until:
            self.now += 1
            if is_alive and self.now % 10 == 0:
                self.renew()
            self.watchman.look()
            if NODE_PATH in self.server.objects:
                self.tell()

    def is_marked(self) -> bool:
        taints = (self.server.objects.get(NODE_PATH, {}).get("spec") or {}).get("taints") or ()
        return machines.TAINT in taints

    def remembers(self) -> str | None:
        return machines.given_up(self.server.objects[NODE_PATH])

    def reported(self) -> list[str]:
        return [v["reason"] for p, v in self.server.objects.items() if "/events/" in p]

    def save(self, **said: str) -> None:
        spec = CheckpointSpec(
            pod=pod(NAMESPACE, "web-0", uid=UID),
            trigger=Trigger.SPOT_INTERRUPTION,
            template_hash="h",
            containers=("app",),
        )
        value = checkpoints.build(spec)
        value["status"] = {
            "node": NODE,
            "conditions": [
                {"type": k, "status": v, "reason": "R", "message": ""} for k, v in said.items()
            ],
        }
        path = CHECKPOINTS.path(namespace=NAMESPACE, name=value["metadata"]["name"])
        self.server.put(path, value)


@pytest.fixture
def world(api, server, applier, numbers) -> World:
    return World(api, server, applier, numbers)


def notice(ends: float | None = 120, *, kind: str = "interruption") -> str:
    at = None if ends is None else START + timedelta(seconds=ends)
    return Interruption(kind=kind, source="aws", ends=at, uncordon=True).to_text()


def test_a_machine_ends_and_comes_back(world: World) -> None:
    world.put(said=notice(), ready="True")
    world.run(119, is_alive=True)
    assert not world.is_marked()
    # Its last renewal was at 110. Kubernetes notices 40 s later.
    world.run(150)
    assert not world.is_marked(), "it is ready by all that is known"
    world.put(said=notice(), ready="Unknown")
    world.run(152)
    assert (world.is_marked(), world.remembers()) == (True, "boot-1")
    assert world.adopter.asked[-1] == (151.0, {NODE}, False), "adopted before it was let go"
    assert world.reported() == [names.EVENT_MACHINE_GONE]
    assert world.numbers.get(metrics.ENDING, state="gone") == 1
    asked = len(world.adopter.asked)
    world.run(400)
    assert len(world.adopter.asked) == asked, "once"
    # The same machine under the same name: another run, without the notice.
    world.put(ready="True", boot="boot-2")
    world.run(402)
    assert (world.is_marked(), world.remembers()) == (False, None)
    assert world.reported() == [names.EVENT_MACHINE_GONE, names.EVENT_MACHINE_BACK]
    assert world.numbers.get(metrics.ACTIONS, action=Mark.__name__, result="done") == 2
    requests = len(world.server.requests)
    world.run(500)
    assert len(world.server.requests) == requests, "nothing is read of nodes that are well"


def test_a_second_notice_is_as_the_first_one(world: World) -> None:
    world.put(said=notice())
    world.run(150)
    assert world.is_marked()
    world.put(said=notice(600), ready="True", boot="boot-2")
    world.run(590, is_alive=True)
    assert not world.is_marked()
    world.put(said=notice(600), ready="Unknown", boot="boot-2")
    world.run(604)
    assert not world.is_marked()
    world.run(620)
    assert (world.is_marked(), world.remembers()) == (True, "boot-2")


def test_a_machine_that_is_only_cut_off_and_comes_back_is_said_once(world: World) -> None:
    world.put(said=notice())
    world.run(200)
    assert world.is_marked()
    world.put(said=notice(), ready="True")
    world.run(300)
    assert world.is_marked(), "people decide"
    assert world.reported().count(names.EVENT_MACHINE_BACK) == 1


@pytest.mark.parametrize(
    ("said", "ready", "is_alive"),
    [
        (None, "Unknown", False),
        (notice(kind="maintenance"), "Unknown", False),
        (notice(), "True", False),
        (notice(), "Unknown", True),
        (notice(None), "Unknown", False),
        ("{}", "Unknown", False),
    ],
)
def test_no_other_node_is_marked(
    world: World, said: str | None, ready: str, is_alive: bool
) -> None:
    world.put(said=said, ready=ready)
    world.run(600, is_alive=is_alive)
    assert not world.is_marked()


def test_without_a_time_it_goes_once_all_of_its_pods_are_saved(world: World) -> None:
    world.put(said=notice(None), ready="True")
    world.run(50)
    world.put(said=notice(None), ready="Unknown")
    world.run(100)
    assert not world.is_marked()
    world.save(Captured="True", Available="True")
    world.run(102)
    assert world.is_marked()


def test_where_nobody_could_be_told_it_goes_as_well(world: World) -> None:
    world.put(ready="Unknown")
    world.run(60)
    assert not world.is_marked()
    world.server.requests.clear()
    world.run(160)
    # Its Lease, its pods and all Checkpoints, every ten seconds.
    assert len(world.server.requests) <= 33
    world.save(Captured="True", Available="True")
    world.run(180)
    assert world.is_marked()


def test_an_operator_that_has_just_begun_waits_until_it_has_seen_the_silence(world: World) -> None:
    world.now = 300
    world.put(said=notice())
    begun = world.now
    # The lease was renewed at 0, long before the end: by the node's clock it could be any time.
    world.run(begun + 120)
    assert not world.is_marked()
    world.run(begun + 130)
    assert world.is_marked()


def test_it_can_be_switched_off(api, server, applier, numbers) -> None:
    world = World(api, server, applier, numbers, marks=False)
    world.put(said=notice())
    world.run(300)
    assert not world.is_marked()
    assert world.adopter.asked, "what was left is adopted all the same"


# What it left


@pytest.mark.parametrize("is_gone", [False, True])
def test_what_a_node_left_is_looked_for_as_soon_as_it_is_silent(
    world: World, is_gone: bool
) -> None:
    if is_gone:
        world.watchman.gone(strandeds.node())
    else:
        world.put(ready="Unknown")
    world.run(30)
    assert [(at, nodes) for at, nodes, _ in world.adopter.asked] == [(1.0, {NODE})]
    world.put(ready="True")
    world.run(60)
    world.put(ready="Unknown")
    world.run(90)
    assert [at for at, _, _ in world.adopter.asked] == [1.0, 61.0], "each time"


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_store_that_is_away_is_asked_again(world: World, is_gone: bool) -> None:
    world.adopter.is_away = True
    if is_gone:
        world.watchman.gone(strandeds.node())
    else:
        world.put(ready="Unknown")
    world.run(31)
    assert [at for at, _, _ in world.adopter.asked] == [1, 6, 11, 16, 21, 26, 31]
    world.adopter.is_away = False
    world.run(100)
    assert len(world.adopter.asked) == 8


def test_a_node_that_is_gone_is_not_asked_about_for_ever(world: World) -> None:
    world.adopter.is_away = True
    world.watchman.gone(strandeds.node())
    world.run(watching.GONE_SECONDS + 10)
    asked = len(world.adopter.asked)
    world.run(watching.GONE_SECONDS + 100)
    assert len(world.adopter.asked) == asked


def test_its_pods_are_let_go_late_rather_than_without_what_they_left(world: World) -> None:
    world.put(said=notice())
    world.adopter.is_away = True
    world.run(125 + watching.PATIENCE_SECONDS)
    assert not world.is_marked()
    world.adopter.is_away = False
    world.run(125 + watching.PATIENCE_SECONDS + 4)
    assert world.is_marked()
    assert world.adopter.asked[-1][0] > 125 + watching.PATIENCE_SECONDS - 5


def test_a_store_that_stays_away_keeps_them_for_a_minute(world: World) -> None:
    world.put(said=notice())
    world.adopter.is_away = True
    world.run(130 + watching.PATIENCE_SECONDS + watching.STORE_SECONDS)
    assert world.is_marked()
    (note,) = [v["note"] for p, v in world.server.objects.items() if "/events/" in p]
    assert "could not be looked at" in note


def test_what_is_seen_of_it_at_the_last_moment_counts(world: World) -> None:
    """It is read again before it is marked: its watch may be behind."""
    world.put(said=notice())
    world.run(100)
    silent = dict(world.server.objects[NODE_PATH])
    world.put(said=notice(), ready="True")
    world.watchman.changed(silent)
    while world.now < 200:
        world.now += 1
        world.watchman.look()
    assert not world.is_marked()


def test_an_api_server_that_is_away_ends_nothing(world: World) -> None:
    world.put(said=notice())
    world.run(124)
    world.server.fail = lambda _: Unavailable("503")
    for _ in range(30):
        world.now += 1
        world.watchman.look()
    world.server.fail = lambda _: None
    assert not world.is_marked()
    world.run(160)
    assert world.is_marked()


# Who waits


def test_a_notice_and_its_end_are_told_to_those_who_wait(world: World) -> None:
    world.save(Captured="True", Available="True")
    world.put(said=notice(), ready="True")
    world.run(10, is_alive=True)
    assert POD_PATH in world.server.objects, "it is on its way into the store"
    world.put(ready="True")
    world.run(12)
    assert POD_PATH not in world.server.objects, "its node stays, and serves it"


def test_who_was_refused_before_the_notice_was_heard_goes_with_it(world: World) -> None:
    world.save(Captured="False")
    world.put(ready="True")
    world.run(10)
    assert POD_PATH in world.server.objects
    world.put(said=notice(), ready="True")
    world.run(12)
    assert POD_PATH not in world.server.objects
