"""``kubectl exec`` into a sleeping pod, in all; beside it the same into pods that are awake."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Final

from architect.api.keeper import Event
from architect.core.errors import ArchitectError
from bench import conditions, figures, fleet, plan
from bench.clock import Clock, milliseconds_since
from bench.figures import Result, Spread
from bench.fleet import BenchPod, FleetSpec
from bench.plan import Scenario
from bench.stage import Stage
from bench.wake import PAUSE_SECONDS, SETTLE_SECONDS
from lab import errors

MEBIBYTES: Final = 64
PODS: Final = 5
COMMAND: Final = ("/bin/true",)


def measure(stage: Stage, scenario: Scenario, clock: Clock) -> list[Result]:
    """Run the scenario. Raises BenchError, LabError, ArchitectError."""
    load = conditions.Load()
    cluster = stage.cluster
    asleep: list[float] = []
    wakes: list[float] = []
    beside: defaultdict[str, list[float]] = defaultdict(list)

    def execute(pod: BenchPod) -> float:
        started = time.monotonic()
        cluster.kubectl("-n", fleet.NAMESPACE, "exec", pod.name, "--", *COMMAND)
        return milliseconds_since(started)

    ours = FleetSpec(name="exec", count=PODS, mebibytes=MEBIBYTES, node=stage.node.name)
    plain = FleetSpec(
        name="exec-plain", count=1, mebibytes=MEBIBYTES, node=stage.node.name, idle=None
    )
    with (
        fleet.running(cluster, ours) as managed,
        fleet.running(cluster, plain) as unmanaged,
        stage.keeper() as keeper,
    ):

        def into_sleeping(pod: BenchPod) -> None:
            if not keeper.is_asleep(pod.uid):
                return
            since = time.time()
            took = execute(pod)
            told = keeper.told(Event.WOKE, pod.uid, since=since)
            asleep.append(took)
            wakes.append(told["duration_seconds"] * 1000)
            time.sleep(PAUSE_SECONDS)
            beside["kubectl exec into the same pod awake"].append(execute(pod))

        def into_unmanaged() -> None:
            beside["kubectl exec into an unmanaged pod"].append(execute(unmanaged.pods[0]))

        def batch(numbers: range) -> None:
            pods = managed.pods[: len(numbers)]
            uids = [pod.uid for pod in pods]
            managed.settle(uids, asleep=False, timeout_seconds=SETTLE_SECONDS)
            for pod in pods:
                keeper.sleep(pod.uid)
                time.sleep(PAUSE_SECONDS / 2)
            managed.settle(uids, asleep=True, timeout_seconds=SETTLE_SECONDS)
            for number, pod in zip(numbers, pods, strict=True):
                acts: list[Callable[[], None]] = [partial(into_sleeping, pod), into_unmanaged]
                for act in plan.rotated(acts, number):
                    time.sleep(PAUSE_SECONDS)
                    act()

        for numbers in plan.batches(scenario.runs, PODS):
            try:
                batch(numbers)
            except (ArchitectError, errors.LabError) as error:
                cluster.progress.say(f"  interrupted: {error}")
                keeper.reconnect()
            cluster.progress.say(
                f"  exec: {len(asleep)} of {scenario.runs}{figures.so_far(asleep, 'ms')}"
            )
            if clock.is_over:
                break
        interruptions = keeper.interruptions
    (quantity,) = scenario.quantities
    notes = (
        f"kubectl exec POD -- {COMMAND[0]} from its start to its end, on the host",
        f"{MEBIBYTES} MiB of random memory",
        "warm page cache",
        f"{interruptions} interruptions by others (keeper or API server)",
    )
    return [
        Result(
            name=quantity.name,
            unit=quantity.unit,
            spread=Spread.of(asleep),
            goal=quantity.goal,
            parts={
                "keeper: wake": Spread.of(wakes),
                "all else: kubectl, API server, kubelet, engine": Spread.of(
                    [took - wake for took, wake in zip(asleep, wakes, strict=True)]
                ),
            },
            baseline={name: Spread.of(values) for name, values in beside.items()},
            conditions=conditions.line(stage.host, load, notes=notes),
            wanted=scenario.runs,
        )
    ]
