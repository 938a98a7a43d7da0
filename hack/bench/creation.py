"""What our runtime costs a container that it does not manage: create and start, in pairs."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Final

from architect.api import names
from bench import conditions, plan
from bench.clock import Clock
from bench.figures import Result, Spread
from bench.plan import Scenario
from bench.stage import REQUEST_SECONDS, Stage

OURS: Final = str(names.CURRENT / "bin" / "runc-architect")
PAUSE_SECONDS: Final = 0.1


def measure(stage: Stage, scenario: Scenario, clock: Clock) -> list[Result]:
    """Run the scenario. Raises BenchError, LabError."""
    load = conditions.Load()
    runtimes = {"through runc-architect": OURS, "plain runc": "runc"}
    both: defaultdict[str, list[float]] = defaultdict(list)

    def create(name: str) -> float:
        answer = stage.in_node.call(
            "create", timeout_seconds=REQUEST_SECONDS, runtime=runtimes[name]
        )
        return float(answer["both_ms"])

    for name in runtimes:
        create(name)  # the first of each reads its program from the disk
    for number in range(scenario.runs):
        for name in plan.rotated(tuple(runtimes), number):
            time.sleep(PAUSE_SECONDS)
            both[name].append(create(name))
        if clock.is_over:
            break
    over = [
        ours - plain
        for ours, plain in zip(both["through runc-architect"], both["plain runc"], strict=True)
    ]
    (quantity,) = scenario.quantities
    notes = (
        "difference of create + start in pairs, whose order alternates",
        "unmanaged container, called on the node as an engine does",
        "warm page cache",
    )
    return [
        Result(
            name=quantity.name,
            unit=quantity.unit,
            spread=Spread.of(over),
            goal=quantity.goal,
            baseline={name: Spread.of(values) for name, values in both.items()},
            conditions=conditions.line(stage.host, load, notes=notes),
            wanted=scenario.runs,
        )
    ]
