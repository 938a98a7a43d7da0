"""A spot node tells what of it would be saved: metrics, its annotation, and events on pods."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from architect.api import names
from architect.core.errors import Unavailable
from architect.daemon.metrics import Metrics
from architect.daemon.notices.providers import Machine
from architect.daemon.settings import DaemonSettings, LookAhead, SpotProvider
from architect.daemon.spot import lookahead, planner
from architect.daemon.spot.inputs import Request
from architect.daemon.spot.lookahead import Lookahead, notice_of
from architect.daemon.spot.planner import Plan
from architect.kube.api import Api
from architect.kube.events import Note

MIB = 1 << 20
NODE = "/api/v1/nodes/node1"
Eventually = Callable[..., None]


class Looking:
    """A lookahead whose looks a test makes, and what it told."""

    def __init__(self, node: Any, api: Api, cluster: Any, **given: Any) -> None:
        cluster.put(NODE, {"kind": "Node", "metadata": {"name": "node1", "uid": "n"}})
        self.node, self.cluster = node, cluster
        self.metrics = Metrics()
        self.notice_seconds: float | None = 30.0
        self.events: list[tuple[str, Note]] = []
        self.lookahead = Lookahead(
            api,
            node="node1",
            survey=node.survey,
            store=node.store,
            metrics=self.metrics,
            notice=lambda: self.notice_seconds,
            tell=lambda pod, note: self.events.append((pod.name, note)),
            **{"write_seconds": 0.0, "settled_seconds": 0.0, **given},
        )

    def look(self, times: int = 2) -> None:
        for _ in range(times):
            self.lookahead.look()

    def annotation(self) -> dict[str, Any] | None:
        annotations = self.cluster.objects[NODE]["metadata"].get("annotations") or {}
        text = annotations.get(names.SPOT_NEEDS)
        return None if text is None else json.loads(text)

    def number(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"architect_spot_{name}", labels)

    def writes(self) -> int:
        return sum(r.method == "PATCH" and r.path == NODE for r in self.cluster.requests)


@pytest.fixture
def looking(node: Any, api: Api, cluster: Any) -> Looking:
    return Looking(node, api, cluster)


def test_what_would_be_lost_is_told_everywhere(looking: Looking) -> None:
    looking.node.has("small", 16 * MIB)
    looking.node.has("large", 64 << 30)
    looking.node.has("bare", MIB, ownerReferences=[])
    looking.look()
    assert looking.annotation() == {
        **{"version": 1, "noticeSeconds": 30.0, "limit": "upload", "pods": 2},
        "neededSeconds": math.ceil(looking.number("needed_seconds") or 0),
        "bytes": looking.number("pending_bytes"),
        "misfits": {"NoController": 1, "TooLarge": 1},
    }
    assert looking.number("notice_seconds") == 30.0
    assert (looking.number("needed_seconds") or 0) > 1000
    assert looking.number("limit", limit="upload") == 1.0
    assert looking.number("pods", verdict="saved") == 1.0
    assert looking.number("misfits", reason="TooLarge") == 1.0
    assert sorted(name for name, _ in looking.events) == ["bare", "large"]
    text = next(note.text for name, note in looking.events if name == "large")
    assert text.startswith("if this machine is taken back with a notice of 30 s, the pod starts")
    assert "TooLarge: alone it would take" in text
    assert "; needs " in text and " s more" in text
    assert all(n.reason == names.EVENT_WOULD_BE_LOST for _, n in looking.events)


def test_a_pod_is_told_once_for_each_reason(looking: Looking) -> None:
    uid = looking.node.has("large", 64 << 30)
    looking.look(1)
    # One look may have met it at an unlucky moment.
    assert looking.events == []
    looking.look(3)
    assert len(looking.events) == 1
    looking.node.sizes[uid] = MIB
    looking.look()
    looking.node.sizes[uid] = 64 << 30
    looking.look()
    assert len(looking.events) == 1
    looking.node.runs("large", ownerReferences=[])
    looking.look()
    assert [note.text.split(": ")[1] for _, note in looking.events] == ["TooLarge", "NoController"]
    # A pod of that name that comes after it is another one.
    looking.node.objects.clear()
    looking.node.told()
    looking.look()
    looking.node.has("large", 64 << 30)
    looking.look()
    assert len(looking.events) == 3


def test_what_somebody_wants_so_is_counted_and_not_told(looking: Looking) -> None:
    looking.node.has("web", MIB, labels={names.FRESH: "true"})
    looking.look()
    assert looking.events == []
    assert looking.number("misfits", reason="Fresh") == 1.0


def test_a_machine_that_is_not_taken_back_says_nothing(looking: Looking) -> None:
    looking.notice_seconds = None
    looking.node.has("large", 64 << 30)
    looking.look()
    assert (looking.events, looking.annotation(), looking.writes()) == ([], None, 0)
    assert math.isnan(looking.number("needed_seconds") or 0)
    assert looking.number("misfits", reason="TooLarge") is None


def test_what_an_earlier_daemon_wrote_goes_where_it_means_nothing(
    node: Any, api: Api, cluster: Any
) -> None:
    first = Looking(node, api, cluster)
    first.look()
    written = cluster.objects[NODE]
    second = Looking(node, api, cluster, settled_seconds=3600.0)
    cluster.put(NODE, written)
    second.notice_seconds = None
    second.look()
    # The metadata service may not have been found yet.
    assert second.annotation() is not None
    third = Looking(node, api, cluster)
    cluster.put(NODE, written)
    third.notice_seconds = None
    third.look()
    assert third.annotation() is None


def test_once_it_is_no_spot_machine_all_is_taken_back(looking: Looking) -> None:
    looking.node.has("large", 64 << 30)
    looking.look()
    looking.notice_seconds = None
    looking.cluster.failures.append(lambda request: Unavailable("no API"))
    looking.look()
    assert looking.annotation() is not None
    looking.cluster.failures.clear()
    looking.look()
    assert looking.annotation() is None
    assert math.isnan(looking.number("notice_seconds") or 0)
    assert looking.number("misfits", reason="TooLarge") is None
    before = len(looking.cluster.requests)
    looking.look()
    assert len(looking.cluster.requests) == before


def test_nothing_is_planned_or_written_while_nothing_changes(
    looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[object] = []
    plan = planner.plan

    def counted(request: Request) -> Plan:
        plans.append(request)
        return plan(request)

    monkeypatch.setattr(planner, "plan", counted)
    uid = looking.node.has("web", 100 * MIB)
    looking.look(1)
    made = len(plans)
    assert made > 0
    looking.node.sizes[uid] = 101 * MIB
    looking.look(5)
    assert (len(plans), looking.writes()) == (made, 1)
    looking.node.sizes[uid] = 200 * MIB
    looking.look(1)
    assert len(plans) == 2 * made
    assert looking.writes() == 2


def test_the_annotation_is_not_written_more_often_than_it_may_be(
    node: Any, api: Api, cluster: Any
) -> None:
    looking = Looking(node, api, cluster, write_seconds=3600.0)
    looking.look(1)
    looking.node.has("web", 100 * MIB)
    looking.look()
    assert looking.writes() == 1
    assert looking.number("pods", verdict="saved") == 1.0


def test_an_api_server_that_is_away_is_written_to_later(looking: Looking) -> None:
    looking.cluster.failures.append(lambda request: Unavailable("no API"))
    looking.look()
    looking.cluster.failures.clear()
    looking.look(1)
    assert looking.annotation() is not None


def test_it_looks_when_pods_change_and_never_all_the_time(
    node: Any, api: Api, cluster: Any, eventually: Eventually
) -> None:
    looking = Looking(node, api, cluster, interval_seconds=3600.0, least_seconds=0.0)
    stop = threading.Event()
    thread = threading.Thread(target=looking.lookahead.run, args=(stop,))
    thread.start()
    try:
        # Before the node's pods are listed nothing is known.
        looking.lookahead.poke()
        looking.node.has("web", 100 * MIB)
        looking.lookahead.poke()
        eventually(lambda: looking.number("pods", verdict="saved") == 1.0)
    finally:
        stop.set()
        looking.lookahead.poke()
        thread.join(20)
    assert not thread.is_alive()


def machine(*, is_spot: bool, notice_seconds: float = 120.0) -> Machine:
    return Machine(name="i-1", about="", is_spot=is_spot, notice_seconds=notice_seconds)


@pytest.mark.parametrize(
    ("look_ahead", "found", "notice_seconds"),
    [
        (LookAhead.AUTO, None, None),
        (LookAhead.AUTO, machine(is_spot=False), None),
        (LookAhead.AUTO, machine(is_spot=True), 120.0),
        (LookAhead.ALWAYS, None, 45.0),
        (LookAhead.ALWAYS, machine(is_spot=False), 120.0),
        (LookAhead.NEVER, machine(is_spot=True), None),
    ],
)
def test_where_it_is_told_and_of_which_notice(
    look_ahead: LookAhead, found: Machine | None, notice_seconds: float | None
) -> None:
    config = DaemonSettings(spot_look_ahead=look_ahead, spot_notice_seconds=45.0)
    assert notice_of(config, found) == notice_seconds


@pytest.mark.parametrize(
    ("look_ahead", "provider", "seconds"),
    [
        (LookAhead.AUTO, SpotProvider.AUTO, lookahead.SETTLED_SECONDS),
        (LookAhead.AUTO, SpotProvider.NONE, 0.0),
        (LookAhead.NEVER, SpotProvider.AUTO, 0.0),
    ],
)
def test_where_no_service_can_be_found_none_is_waited_for(
    look_ahead: LookAhead, provider: SpotProvider, seconds: float
) -> None:
    config = DaemonSettings(spot_look_ahead=look_ahead, spot_provider=provider)
    assert lookahead.settled_seconds(config) == seconds


def test_while_the_end_is_announced_it_stands_still(node: Any, api: Api, cluster: Any) -> None:
    looking = Looking(node, api, cluster, is_paused=lambda: True)
    looking.node.has("large", 64 << 30)
    looking.look()
    assert (looking.events, looking.annotation()) == ([], None)


def test_a_hundred_pods_cost_little(looking: Looking, tmp_path: Path) -> None:
    for n in range(110):
        looking.node.has(f"p{n:03}", (1 + n % 16) * 64 * MIB)
    began = time.thread_time()
    looking.look()
    spent = time.thread_time() - began
    # What it takes decides how long it rests: a wrong order of magnitude is a defect.
    assert spent < 5.0
    assert looking.number("notice_seconds") == 30.0
