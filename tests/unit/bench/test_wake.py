"""The order of a wake scenario, and what others may do to it in between."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from architect.api.keeper import Event
from architect.core.errors import Unavailable
from bench import conditions, pagecache, plan, wake
from bench.clock import Clock
from bench.conditions import Host
from bench.errors import BenchError
from bench.fleet import BenchPod
from bench.plan import WakeScenario
from lab.progress import SILENT

HOST = Host(kernel="k", cgroup_version=2, cores=2, memory_gib=1, huge_pages="never", versions={})


class World:
    """Node, client and baselines in one: remembers what was done in which order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.asleep: set[str] = set()
        self.identity: dict[str, str] = {}
        self.fails_at = -1
        self.interruptions = 0
        self.busy = 0

    # The keeper's side

    def is_asleep(self, uid: str) -> bool:
        return uid in self.asleep

    def sleep(self, uid: str) -> float:
        self.done.append(f"sleep {uid}")
        if len(self.done) == self.fails_at:
            raise Unavailable("the keeper is gone")
        self.asleep.add(uid)
        return 100.0

    def wake(self, uid: str) -> None:
        self.done.append(f"command {uid}")
        self.asleep.discard(uid)

    def told(self, event: Event, uid: str, *, since: float) -> dict[str, Any]:
        assert since <= time.time()
        if event is Event.SLEPT:
            return {"steps": {"dump": 0.08}}
        return {"steps": {"prepare": 0.001, "restore": 0.05, "release": 0.003}}

    def reconnect(self) -> None:
        self.interruptions += 1

    # The processes' side

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        if op == "get":
            uid = arguments["address"]
            if uid in self.asleep:
                self.asleep.discard(uid)
                self.done.append(f"wake {uid}")
            body = json.dumps({"identity": self.identity.get(uid, uid)})
            return {"status": "200", "body": body, "first_byte_ms": 60.0}
        self.done.append(f"{op} {arguments.get('kind', '')}{arguments.get('number', '')}")
        return {
            "dump_ms": 150.0,
            "first_byte_ms": 120.0,
            "cached_bytes": 0,
            "small_pages_ms": 20.0,
            "huge_pages_ms": 5.0,
        }


class Pods:
    """A fleet whose labels follow at once."""

    def __init__(self, count: int) -> None:
        self.pods = tuple(
            BenchPod(name=f"p{n}", uid=f"p{n}", container_id="c", service_ip=f"p{n}")
            for n in range(count)
        )

    def settle(self, uids: list[str], *, asleep: bool, timeout_seconds: float) -> bool:
        return True


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch) -> wake._Run:
    monkeypatch.setattr(wake, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(wake._Run, "_images", lambda self, pod: [Path(f"/{pod.name}")])
    for name in ("settle", "drop"):
        monkeypatch.setattr(
            pagecache, name, lambda files, name=name: world.done.append(f"{name} {files[0]}")
        )
    monkeypatch.setattr(pagecache, "cached_bytes", lambda path: 4096)
    scenario = WakeScenario(
        name="w",
        quantities=plan.SCENARIOS[0].quantities,
        runs=4,
        weight=1,
        mebibytes=64,
        is_cold=False,
        pods=2,
        baseline_every=2,
    )
    stage = SimpleNamespace(
        client=world,
        baselines=world,
        cluster=SimpleNamespace(progress=SILENT),
        client_place="node2",
        node=SimpleNamespace(name="node1"),
        host=HOST,
    )
    made = wake._Run(
        stage=cast(Any, stage),
        scenario=scenario,
        fleet=cast(Any, Pods(2)),
        keeper=cast(Any, world),
    )
    made.meet()
    return made


def test_all_sleep_before_the_first_is_woken_and_baselines_turn_with_them(
    run: wake._Run, world: World
) -> None:
    for numbers in plan.batches(4, 2):
        run.batch(numbers, Clock(3600))
    assert world.done == [
        *("sleep p0", "dump runc0", "dump criu0", "sleep p1", "settle /p0", "settle /p1"),
        *("wake p0", "restore runc0", "restore criu0", "floor ", "wake p1"),
        # In the next batch another one is first.
        *("dump runc0", "dump criu0", "sleep p0", "sleep p1", "settle /p0", "settle /p1"),
        *("restore runc0", "restore criu0", "floor ", "wake p0", "wake p1"),
    ]
    assert run.first_byte == [60.0] * 4
    assert run.awake == [60.0] * 4
    assert set(run.wake_baseline) == {
        "plain runc restore, first byte",
        "plain criu restore, first byte",
        "floor: read the page cache into fresh small pages",
        "floor: read the page cache into fresh huge pages",
    }
    assert all(len(values) == 2 for values in run.wake_baseline.values())


def test_the_parts_add_up_to_the_first_byte(run: wake._Run) -> None:
    run.batch(range(2), Clock(3600))
    parts = run.wake_parts
    assert parts["all else: network, release, application"] == [pytest.approx(9.0)] * 2
    assert parts["keeper: restore"] == [50.0] * 2


def test_cold_drops_the_image_just_before_the_wake_and_tells_what_stayed(
    run: wake._Run, world: World
) -> None:
    object.__setattr__(run.scenario, "is_cold", True)
    run.batch(range(1), Clock(3600))
    assert world.done[world.done.index("wake p0") - 1] == "drop /p0"
    assert "image files dropped from the page cache (4 KiB stayed)" in run._notes()


def test_a_pod_that_woke_with_other_memory_ends_the_measure(run: wake._Run, world: World) -> None:
    world.identity["p0"] = "somebody else"
    with pytest.raises(BenchError, match="woke without its memory"):
        run.batch(range(2), Clock(3600))


def test_after_an_interruption_the_next_batch_begins_with_all_awake(
    run: wake._Run, world: World
) -> None:
    world.fails_at = 4  # p1's sleep, after p0's and two dumps
    run.batch(range(2), Clock(3600))
    assert world.interruptions == 1
    assert run.first_byte == []
    run.batch(range(2, 4), Clock(3600))
    assert world.done[4] == "command p0"
    assert len(run.first_byte) == 2


def test_a_pod_that_somebody_else_woke_does_not_count(
    run: wake._Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settle(uids: list[str], *, asleep: bool, timeout_seconds: float) -> bool:
        world.asleep.clear()
        return True

    monkeypatch.setattr(run.fleet, "settle", settle)
    run.batch(range(2), Clock(3600))
    assert run.first_byte == []
    assert run.woken_by_others == 2
    assert any("2 pods woken by somebody else" in note for note in run._notes())


def test_nothing_is_begun_when_the_time_is_over(run: wake._Run) -> None:
    run.batch(range(2), Clock(0))
    assert len(run.first_byte) == 1  # what sleeps already is worth one look


def test_results_carry_goal_baselines_parts_and_conditions(run: wake._Run) -> None:
    run.batch(range(2), Clock(3600))
    first_byte, sleep = run.results(conditions.Load())
    assert first_byte.name == "wake.first_byte.64MB"
    assert first_byte.goal == {"p50": 90, "p99": 250}
    assert "awake" in first_byte.baseline
    assert first_byte.wanted == 4
    assert sleep.name == "sleep.64MB"
    assert sleep.spread.p50 == 100
    assert set(sleep.baseline) == {"plain runc checkpoint", "plain criu dump"}
    assert "through the ClusterIP" in first_byte.conditions
    assert "cgroup v2" in first_byte.conditions
