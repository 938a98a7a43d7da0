"""What is measured, in which order, for how long."""

from __future__ import annotations

from collections import Counter

import pytest

from bench import plan
from bench.errors import BenchError
from bench.plan import MoveScenario, PeerScenario, SpotScenario, StoreScenario, WakeScenario

PROMISED = {
    "wake.first_byte.16MB",
    "wake.first_byte.64MB",
    "wake.first_byte.256MB",
    "wake.first_byte.1024MB",
    "sleep.64MB",
    "exec.asleep.64MB",
    "create.overhead",
    "memory.per_sleeping_pod",
    "memory.keeper",
    "daemon.cpu.50pods",
    "daemon.memory.2048MB",
    "migration.first_reply.64MB",
    "migration.first_reply.1024MB",
    "migration.freeze.64MB",
    "transfer.peer.ratio",
    "transfer.peer.ratio.10Gbps",
    "drain.20pods",
    "transfer.s3.up.ratio",
    "transfer.s3.down.ratio",
    "spot.notice_to_safe.4GiB",
    "spot.ratio",
}


def names(*only: str) -> set[str]:
    return {q.name for s in plan.select(only) for q in s.quantities}


def test_everything_promised_is_measured_and_each_size_cold_too() -> None:
    measured = [q.name for s in plan.SCENARIOS for q in s.quantities]
    assert set(measured) >= PROMISED
    assert {f"wake.first_byte.{size}MB.cold" for size in (16, 64, 256, 1024)} <= set(measured)
    assert max(Counter(measured).values()) == 1


def test_a_goal_for_the_99th_percentile_has_enough_runs_to_have_one() -> None:
    for scenario in plan.SCENARIOS:
        if not isinstance(scenario, SpotScenario):  # minutes each, and no percentile is promised
            is_long = isinstance(scenario, MoveScenario | PeerScenario | StoreScenario)
            assert scenario.runs >= (10 if is_long else 50)
        if isinstance(scenario, WakeScenario) and any("p99" in q.goal for q in scenario.quantities):
            assert scenario.runs >= 200


def test_a_whole_run_fits_into_its_time() -> None:
    assert sum(scenario.weight for scenario in plan.SCENARIOS) <= 76


def test_baselines_come_often_enough_to_have_a_spread() -> None:
    for scenario in plan.SCENARIOS:
        if isinstance(scenario, WakeScenario):
            assert scenario.runs // scenario.baseline_every >= 10
        elif isinstance(scenario, MoveScenario):
            assert scenario.runs // scenario.baseline_every >= 2


def test_one_name_selects_its_scenario_alone() -> None:
    assert [s.name for s in plan.select(["wake.first_byte.64MB"])] == ["wake.first_byte.64MB"]
    assert [s.name for s in plan.select(["sleep.64MB"])] == ["wake.first_byte.64MB"]
    assert [s.name for s in plan.select(["wake.first_byte.64MB.cold"])] == [
        "wake.first_byte.64MB.cold"
    ]


def test_the_beginning_of_names_selects_all_of_them() -> None:
    assert len(plan.select(["wake"])) == 8
    assert names("daemon.cpu") == names("memory.keeper")
    assert len(plan.select([])) == len(plan.SCENARIOS)


def test_the_order_of_the_whole_run_is_kept() -> None:
    chosen = plan.select(["create.overhead", "wake.first_byte.16MB"])
    assert [s.name for s in chosen] == ["wake.first_byte.16MB", "create"]


@pytest.mark.parametrize("wrong", ["wake.first", "nothing", ""])
def test_a_name_that_is_none_is_refused_with_those_there_are(wrong: str) -> None:
    with pytest.raises(BenchError, match=r"create\.overhead"):
        plan.select([wrong])


def test_batches_cover_every_run_once() -> None:
    found = list(plan.batches(25, 10))
    assert [len(batch) for batch in found] == [10, 10, 5]
    assert [run for batch in found for run in batch] == list(range(25))


def test_each_contestant_is_first_equally_often() -> None:
    orders = [plan.rotated("abcd", run) for run in range(8)]
    assert Counter(order[0] for order in orders) == dict.fromkeys("abcd", 2)
    assert all(sorted(order) == list("abcd") for order in orders)
    assert plan.rotated([], 3) == []


def test_the_first_may_take_more_than_its_share_and_the_last_what_is_left() -> None:
    assert plan.allotted_seconds(100, [1, 3]) == pytest.approx(25 * plan.GENEROSITY)
    assert plan.allotted_seconds(100, [3, 1]) == 100
    assert plan.allotted_seconds(35, [1]) == 35
    assert plan.allotted_seconds(-1, [1]) == 0


def test_even_if_all_take_what_they_may_everybody_gets_something() -> None:
    left, weights = 3900.0, [scenario.weight for scenario in plan.SCENARIOS]
    for at in range(len(weights)):
        allotted = plan.allotted_seconds(left, weights[at:])
        assert allotted > 60
        left -= allotted
