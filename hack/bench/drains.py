"""Twenty pods of one node are evicted at once; until all have answered, with their memory."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

from bench import conditions, figures, fleet, herd, moves
from bench.clock import Clock
from bench.errors import BenchError
from bench.figures import Result, Spread
from bench.herd import Herd, HerdSpec
from bench.moves import LABEL_SECONDS, Values
from bench.plan import MoveScenario
from bench.podwatch import PodWatch
from bench.stage import REQUEST_SECONDS, Stage

PAUSE_SECONDS: Final = 0.25
"""Between two questions to each pod: twenty are asked, and asking is work, too."""
LIMIT_SECONDS: Final = 300.0
QUIET_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 0.05


@dataclass(kw_only=True)
class _Run:
    stage: Stage
    scenario: MoveScenario
    took: list[float] = field(default_factory=list)
    """Milliseconds."""
    parts: Values = field(default_factory=lambda: defaultdict(list))
    unmanaged: list[float] = field(default_factory=list)

    def drain(self, made: Herd) -> None:
        """Drain the managed ones once."""
        answered, asked, evicted = self._replace(made, is_eviction=True)
        self.took.append((answered[-1] - asked) * 1000)
        for what, at in (
            ("until all evictions were accepted", evicted),
            ("until the first had answered", answered[0]),
            ("until half of them had", answered[len(answered) // 2 - 1]),
        ):
            self.parts[what].append((at - asked) * 1000)

    def beside(self, made: Herd) -> None:
        """Delete the unmanaged ones once, for comparison: they lose their memory."""
        answered, asked, _ = self._replace(made, is_eviction=False)
        self.unmanaged.append((answered[-1] - asked) * 1000)

    def _replace(self, made: Herd, *, is_eviction: bool) -> tuple[list[float], float, float]:
        """Return when the replacements first answered, in order, and when that was asked for."""
        old = made.members()
        home = old[0].node
        target = next(n.name for n in self.stage.cluster.nodes if n.name != home)
        herd.only(self.stage.cluster, target)
        time.sleep(LABEL_SECONDS)
        for member in old:
            self._follow(member.uid, member.address)
        before = {str(self._answer(member.uid, made)["identity"]) for member in old}
        self._client("unfollow")
        if len(before) != len(old):
            raise BenchError(f"{len(old)} pods have {len(before)} identities")
        pods = PodWatch(self.stage.cluster.api, namespace=fleet.NAMESPACE, label=made.spec.label)
        try:
            asked = time.time()
            (made.evict if is_eviction else made.remove)(old)
            evicted = time.time()
            answers = self._answers(pods, made, count=len(old))
        finally:
            pods.close()
            self._client("unfollow")
        if is_eviction:
            after = {str(answer["identity"]) for answer in answers}
            if after != before:
                raise BenchError(
                    f"{len(before - after)} of {len(old)} pods came without the memory of their "
                    f"predecessors\n{made.diagnosis()}"
                )
        left = [member.name for member in made.members() if member.node != target]
        if left:
            raise BenchError(f"{', '.join(left)} did not come to {target}")
        return sorted(float(answer["at"]) for answer in answers), asked, evicted

    def _answers(self, pods: PodWatch, made: Herd, *, count: int) -> list[dict[str, Any]]:
        """Ask each new pod from when its address is told; return the first answer of each."""
        deadline = time.monotonic() + LIMIT_SECONDS
        followed: set[str] = set()
        while len(followed) < count:
            for uid, pod in pods.newcomers().items():
                address = pod["status"].get("podIP")
                if address and uid not in followed:
                    followed.add(uid)
                    self._follow(uid, address)
            if time.monotonic() > deadline:
                raise BenchError(
                    f"{len(followed)} of {count} replacements have an address after "
                    f"{LIMIT_SECONDS:g} s\n{made.diagnosis()}"
                )
            time.sleep(LOOK_SECONDS)
        return [self._answer(uid, made) for uid in followed]

    def _follow(self, uid: str, address: str) -> None:
        self._client(
            "follow",
            **{"name": uid, "address": address, "port": fleet.PORT, "path": "/", "known": ""},
            pause_seconds=PAUSE_SECONDS,
        )

    def _answer(self, uid: str, made: Herd) -> dict[str, Any]:
        found = self._client("followed", name=uid, seconds=LIMIT_SECONDS)["first"]
        if found is None:
            raise BenchError(f"pod {uid} does not answer\n{made.diagnosis()}")
        return dict(found)

    def _client(self, op: str, **arguments: Any) -> dict[str, Any]:
        return self.stage.client.call(
            op, timeout_seconds=LIMIT_SECONDS + REQUEST_SECONDS, **arguments
        )


def measure(stage: Stage, scenario: MoveScenario, clock: Clock) -> list[Result]:
    """Run the scenario. Raises BenchError, LabError, ArchitectError, OSError."""
    load = conditions.Load()
    run = _Run(stage=stage, scenario=scenario)
    ours = HerdSpec(name="drain", count=scenario.pods, mebibytes=scenario.mebibytes)
    plain = HerdSpec(
        name="drain-plain", count=scenario.pods, mebibytes=scenario.mebibytes, is_managed=False
    )
    with moves.opened(stage):
        # Not side by side: forty pods are other conditions than twenty.
        with herd.running(stage.cluster, ours) as (managed, _):
            for number in range(scenario.runs):
                time.sleep(QUIET_SECONDS)
                run.drain(managed)
                stage.cluster.progress.say(
                    f"  {scenario.name}: {number + 1} of {scenario.runs}"
                    f"{figures.so_far(run.took, 'ms')}"
                )
                if clock.is_over:
                    break
        herd.only(stage.cluster, stage.node.name)
        with herd.running(stage.cluster, plain) as (unmanaged, _):
            for _ in range(-(-len(run.took) // scenario.baseline_every)):
                time.sleep(QUIET_SECONDS)
                run.beside(unmanaged)
    (quantity,) = scenario.quantities
    notes = (
        f"{scenario.pods} pods of {scenario.mebibytes} MiB of one Deployment, evicted at once, by "
        "turns from each of two nodes of one host",
        "until the last replacement had answered at its own address with a predecessor's memory",
        f"each is asked every {PAUSE_SECONDS * 1000:.0f} ms from when its address is told",
        "baseline after the runs: as many unmanaged pods, deleted",
    )
    return [
        Result(
            name=quantity.name,
            unit=quantity.unit,
            spread=Spread.of(run.took),
            goal=quantity.goal,
            parts=moves.spreads(run.parts),
            baseline={"unmanaged pods deleted: their replacements": Spread.of(run.unmanaged)},
            conditions=conditions.line(stage.host, load, notes=notes),
            wanted=scenario.runs,
        )
    ]
