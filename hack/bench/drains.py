"""Twenty pods of one node are evicted at once; until all have answered, with their memory."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from architect.api import names
from bench import conditions, figures, fleet, herd, moves
from bench.appearing import Watch
from bench.clock import Clock
from bench.errors import BenchError
from bench.figures import Result, Spread
from bench.herd import Herd, HerdSpec, Member
from bench.moves import LABEL_SECONDS, Values
from bench.plan import MoveScenario
from bench.podwatch import PodWatch
from bench.processes import inside
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
        old = made.members()
        before = self._identities(old, made)
        source, target = old[0].node, self._lead_away(old)
        with (
            Watch(inside(self.stage.cluster.node(source).machine, names.CHECKPOINTS)) as saved,
            Watch(inside(self.stage.cluster.node(target).machine, names.ARRIVALS)) as came,
            self._watching(made) as pods,
        ):
            asked = time.time()
            made.evict(old)
            evicted = time.time()
            answers = self._answers(pods, made, count=len(old))
            new = list(answers)
            saved_at = sorted(saved.at(member.uid) for member in old)
            came_at = sorted(came.at(uid) for uid in new)
            told_at = sorted(pods.when(uid, "address") for uid in new)
        after = {str(answer["identity"]) for answer in answers.values()}
        if after != before:
            raise BenchError(
                f"{len(before - after)} of {len(old)} pods came without the memory of their "
                f"predecessors\n{made.diagnosis()}"
            )
        left = [member.name for member in made.members() if member.node != target]
        if left:
            raise BenchError(f"{', '.join(left)} did not come to {target}")
        answered = _times(answers)
        self.took.append((answered[-1] - asked) * 1000)
        self.parts["until all evictions were accepted"].append((evicted - asked) * 1000)
        for what, times in (
            ("was saved", saved_at),
            ("was copied", came_at),
            ("had an address", told_at),
            ("had answered", answered),
        ):
            for which, at in (("first", times[0]), ("last", times[-1])):
                self.parts[f"until the {which} {what}"].append((at - asked) * 1000)

    def beside(self, made: Herd) -> None:
        """Delete the unmanaged ones once, for comparison: they lose their memory."""
        old = made.members()
        self._lead_away(old)
        with self._watching(made) as pods:
            asked = time.time()
            made.remove(old)
            answers = self._answers(pods, made, count=len(old))
        self.unmanaged.append((_times(answers)[-1] - asked) * 1000)

    def warm_up(self, made: Herd) -> None:
        """Move all there and back: every node has the directories that are watched."""
        for _ in self.stage.cluster.nodes[:2]:
            old = made.members()
            self._lead_away(old)
            made.evict(old)

    def _lead_away(self, old: Sequence[Member]) -> str:
        """Let the replacements come to another node; return which."""
        homes = {member.node for member in old}
        if len(homes) != 1:
            raise BenchError(f"the pods are on {', '.join(sorted(homes))}, not on one node")
        target = next(n.name for n in self.stage.cluster.nodes if n.name not in homes)
        herd.only(self.stage.cluster, target)
        time.sleep(LABEL_SECONDS)
        return target

    def _identities(self, members: Sequence[Member], made: Herd) -> set[str]:
        for member in members:
            self._follow(member.uid, member.address)
        found = {str(self._answer(member.uid, made)["identity"]) for member in members}
        self._client("unfollow")
        if len(found) != len(members):
            raise BenchError(f"{len(members)} pods have {len(found)} identities")
        return found

    @contextmanager
    def _watching(self, made: Herd) -> Iterator[PodWatch]:
        pods = PodWatch(self.stage.cluster.api, namespace=fleet.NAMESPACE, label=made.spec.label)
        try:
            yield pods
        finally:
            pods.close()
            self._client("unfollow")

    def _answers(self, pods: PodWatch, made: Herd, *, count: int) -> dict[str, dict[str, Any]]:
        """Ask each new pod from when its address is told; return each one's first answer."""
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
        return {uid: self._answer(uid, made) for uid in followed}

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


def _times(answers: Mapping[str, Mapping[str, Any]]) -> list[float]:
    return sorted(float(answer["at"]) for answer in answers.values())


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
            run.warm_up(managed)
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
