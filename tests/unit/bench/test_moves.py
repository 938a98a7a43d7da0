"""What a move is made of, who takes part in it, and what the API server tells of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench import conditions, herd, plan, podwatch
from bench.conditions import Host
from bench.errors import BenchError
from bench.herd import HerdSpec
from bench.moves import _Run
from bench.plan import MoveScenario
from bench.podwatch import PodWatch
from bench.timeline import Move

MOVE = Move(
    asked=100.0,
    last_old=100.1,
    slept=100.4,
    sleep_steps={"drain": 0.05, "dump": 0.1, "stand-in": 0.05},
    saved=100.5,
    copy_began=101.0,
    copied=101.2,
    woke=101.5,
    wake_steps={"prepare": 0.01, "restore": 0.08, "release": 0.01},
    created=100.05,
    scheduled=100.07,
    address=101.6,
    ready=101.9,
    first_own=101.7,
    first_service=102.5,
    size=1,
    asked_service=60,
    failed_service=7,
    daemon_bytes={"left": 90_000_000, "come to": 120_000_000},
)


def test_architects_own_part_is_freeze_copy_and_restore() -> None:
    assert MOVE.own_ms() == pytest.approx({"freeze": 300, "copy": 200, "restore": 100})


def test_parts_add_up_to_what_they_are_parts_of() -> None:
    assert sum(MOVE.reply_parts_ms().values()) == pytest.approx(1700)
    assert sum(MOVE.service_parts_ms().values()) == pytest.approx(2500)
    assert sum(MOVE.freeze_parts_ms().values()) == pytest.approx(1600)


def test_every_quantity_of_a_move_has_values_parts_and_what_stands_beside_it() -> None:
    host = Host(kernel="k", cgroup_version=2, cores=2, memory_gib=1, huge_pages="no", versions={})
    stage = cast(Any, SimpleNamespace(host=host, client_place="node2"))
    for scenario in (s for s in plan.SCENARIOS if isinstance(s, MoveScenario) and s.pods == 1):
        run = _Run(stage=stage, scenario=scenario, places={}, moves=[MOVE], plain_copy=[0.1])
        run.unmanaged["its replacement, at its address"].append(900)
        found = {result.name: result for result in run.results(conditions.Load())}
        size = f"{scenario.mebibytes}MB"
        reply = found[f"migration.first_reply.{size}"]
        assert reply.spread.p50 == pytest.approx(1700)
        assert list(reply.baseline) == ["its replacement, at its address"]
        own = found[f"migration.own.{size}"]
        assert own.spread.p50 == pytest.approx(600)
        assert own.parts["freeze, daemon: files packed, hashed"].p50 == pytest.approx(100)
        assert own.baseline["plain copy of the same bytes"].p50 == pytest.approx(100)
        if f"migration.failed_requests.{size}" in found:
            failed = found[f"migration.failed_requests.{size}"]
            assert failed.spread.p50 == 7
            assert failed.parts["of so many"].p50 == 60
        if f"daemon.memory.{size}" in found:
            assert found[f"daemon.memory.{size}"].spread.p50 == 120
        assert found.keys() == {quantity.name for quantity in scenario.quantities}
        if f"migration.copy.ratio.{size}" in found:
            assert found[f"migration.copy.ratio.{size}"].spread.p50 == pytest.approx(0.5)


def test_only_managed_pods_have_the_annotation_and_a_label_says_who_takes_them() -> None:
    managed, service = herd.objects(HerdSpec(name="h", count=20, mebibytes=64))
    template = managed["spec"]["template"]
    assert managed["spec"]["replicas"] == 20
    assert template["metadata"]["annotations"] == {"architect.dev/migrate": "true"}
    assert template["spec"]["nodeSelector"] == {"architect-bench/place": "yes"}
    assert service["spec"]["selector"] == template["metadata"]["labels"] == {"herd": "h"}
    plain, _ = herd.objects(HerdSpec(name="h", count=1, mebibytes=64, is_managed=False))
    assert plain["spec"]["template"]["metadata"]["annotations"] == {}


def pod(uid: str, *, node: str = "", address: str = "", is_ready: bool = False) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "True" if is_ready else "False"}
    return {
        "metadata": {"uid": uid},
        "spec": {"nodeName": node} if node else {},
        "status": {"podIP": address, "conditions": [ready]},
    }


def test_milestones_are_read_from_what_a_change_shows() -> None:
    assert podwatch.reached("ADDED", pod("a")) == ["created"]
    assert podwatch.reached("MODIFIED", pod("a", node="n", address="1", is_ready=True)) == [
        *("created", "scheduled", "address", "ready")
    ]
    leaving = pod("a", node="n")
    leaving["metadata"]["deletionTimestamp"] = "now"
    assert podwatch.reached("DELETED", leaving) == ["created", "scheduled", "deleted", "gone"]


class Server:
    """An API server that tells one change after the other, when it is let."""

    def __init__(self, changes: list[dict[str, Any]]) -> None:
        self.changes = changes
        self.go_on = threading.Event()

    def get(self, path: str) -> dict[str, Any]:
        assert path.endswith("labelSelector=herd%3Dh")
        return {"items": [pod("old")], "metadata": {"resourceVersion": "7"}}

    def watch(self, path: str, *, silence_seconds: float) -> Iterator[dict[str, Any]]:
        assert path.endswith("&watch=true&resourceVersion=7")
        yield from self.changes
        self.go_on.wait(silence_seconds)


def test_newcomers_are_waited_for_and_an_ended_watch_is_an_error() -> None:
    server = Server(
        [
            {"type": "MODIFIED", "object": pod("old", node="n", address="1")},
            {"type": "ADDED", "object": pod("new")},
            {"type": "MODIFIED", "object": pod("new", node="n", address="2")},
        ]
    )
    watch = PodWatch(cast(Any, server), namespace="x", label="herd=h")
    assert watch.wait(lambda: set(watch.newcomers()), "address", seconds=30) == {"new"}
    assert watch.when("new", "created") <= watch.when("new", "address")
    with pytest.raises(BenchError, match="not ready"):
        watch.when("new", "ready")
    server.go_on.set()
    with pytest.raises(BenchError, match="ended the watch"):
        watch.wait(lambda: {"new"}, "ready", seconds=30)
