"""Fifty managed pods on one node: memory and processor time of everything that is ours."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from architect.core.errors import ArchitectError
from bench import accounting, conditions, fleet, plan
from bench.accounting import Memory, Process, ProcTable
from bench.clock import Clock
from bench.errors import BenchError
from bench.figures import Result, Spread
from bench.fleet import Fleet, FleetSpec
from bench.keeper import Keeper
from bench.plan import Scenario
from bench.processes import inside
from bench.stage import Stage
from lab import errors, release

MEBIBYTES: Final = 1
MEGABYTE: Final = 1_000_000
IDLE: Final = "10m"
"""The daemon looks at such a pod every 15 s, its longest interval."""
WINDOWS: Final = 60
WINDOW_SECONDS: Final = 2.5
"""Together two and a half minutes."""
QUIET_SECONDS: Final = 15.0
"""After the last pod became ready or fell asleep."""
SETTLE_SECONDS: Final = 120.0
MOST_REPLACED: Final = 20
WARDEN: Final = "architect-warden"
MEMBERS: Final = {WARDEN: "warden", "architect-criu": "fork server"}
"""Part of a command line to what it is; the rest of the family is the keeper itself."""


@dataclass(kw_only=True)
class Watch:
    """Processor time and memory over some minutes in which nothing happens."""

    daemon: list[float] = field(default_factory=list)
    """Percent of a core, one value per window."""
    keeper: list[float] = field(default_factory=list)
    keeper_memory: list[Memory] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Sight:
    """One look at daemon and keeper."""

    at: float
    daemon: Path
    daemon_seconds: float
    keeper: frozenset[int]
    """Pids of its family."""
    keeper_seconds: float
    keeper_memory: Memory

    def is_same(self, other: Sight) -> bool:
        """Whether both are of the same processes, so that their counters can be subtracted."""
        return self.daemon == other.daemon and self.keeper == other.keeper


def measure(stage: Stage, scenario: Scenario, clock: Clock) -> list[Result]:
    """Run the scenario. Raises BenchError, LabError, ArchitectError."""
    load = conditions.Load()
    count = scenario.runs
    windows = WINDOWS if count >= plan.RUNS else count
    progress = stage.cluster.progress
    ours = Ours(stage)
    # The keeper is started by the first managed container of a node.
    first = FleetSpec(name="first", count=1, mebibytes=MEBIBYTES, node=stage.node.name)
    with fleet.running(stage.cluster, first), stage.keeper() as keeper:
        ours.find(keeper)
    before = ours.keeper_memory()
    spec = FleetSpec(
        name="fifty",
        count=count,
        mebibytes=MEBIBYTES,
        node=stage.node.name,
        idle=IDLE,
        has_service=False,
    )
    with fleet.running(stage.cluster, spec) as pods, stage.keeper() as keeper:
        progress.say(f"  {count} pods run; watching them")
        time.sleep(QUIET_SECONDS)
        awake = ours.watch(windows, clock)
        for pod in pods.pods:
            fall_asleep(keeper, pod.uid)
        uids = [pod.uid for pod in pods.pods]
        settled = pods.settle(uids, asleep=True, timeout_seconds=SETTLE_SECONDS)
        time.sleep(QUIET_SECONDS)
        progress.say(f"  {count} pods sleep; watching them")
        asleep = ours.watch(windows, clock)
        if not pods.is_settled(uids, asleep=True):
            settled = False
        after = asleep.keeper_memory[-1]
        private, shims = ours.per_pod(pods)
        members = ours.keeper_members()
    growth = max(0, after.private - before.private) / count
    notes: tuple[str, ...] = (
        f"{count} pods of {MEBIBYTES} MiB on one node, architect.dev/idle {IDLE}, "
        "a probe every 5 s each",
    )
    if ours.replaced:
        notes += (f"daemon or keeper replaced by others {ours.replaced} times, windows left out",)
    if not settled:
        notes += ("labels or requests of some were later than expected",)
    said = conditions.line(stage.host, load, notes=notes)
    return _results(
        scenario,
        values={
            "memory.per_sleeping_pod": [(p + growth) / MEGABYTE for p in private],
            "memory.keeper": [m.proportional / MEGABYTE for m in asleep.keeper_memory],
            "daemon.cpu.50pods": awake.daemon,
            "daemon.cpu.50pods.asleep": asleep.daemon,
            "keeper.cpu.50pods": awake.keeper,
            "keeper.cpu.50pods.asleep": asleep.keeper,
        },
        parts={
            "memory.per_sleeping_pod": {
                "processes in the pod (private)": [p / MEGABYTE for p in private],
                "keeper's growth": [growth / MEGABYTE],
            },
            "memory.keeper": {
                name: [memory.proportional / MEGABYTE] for name, memory in members.items()
            },
        },
        baseline={
            "memory.per_sleeping_pod": {
                "the engine's own shim (private)": [s / MEGABYTE for s in shims],
            },
            "memory.keeper": {
                "before the pods (PSS)": [before.proportional / MEGABYTE],
                "with all awake (PSS)": [m.proportional / MEGABYTE for m in awake.keeper_memory],
                "resident, all asleep": [m.resident / MEGABYTE for m in asleep.keeper_memory],
            },
        },
        conditions=said,
        wanted={"memory.per_sleeping_pod": count},
        windows=windows,
    )


class Ours:
    """Our processes on a node."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._table = ProcTable(inside(stage.node.machine, "/proc"))
        self._cgroups = inside(stage.node.machine, "/sys/fs/cgroup")
        self._daemon: Path | None = None
        self._top = 0
        self.replaced = 0
        """How often the daemon or a process of the keeper's was replaced under our eyes."""

    def find(self, keeper: Keeper) -> None:
        """Remember the keeper, or rather the parent that starts it again."""
        pid = keeper.pid()
        found = {process.pid: process for process in self._table.processes()}
        if pid not in found:
            raise BenchError(f"the keeper's pid {pid} is not on the node")
        parent = found.get(found[pid].parent)
        self._top = parent.pid if parent is not None and WARDEN in parent.command else pid

    def _family(self) -> list[Process]:
        found = accounting.descendants(self._table.processes(), self._top)
        if not found:
            raise BenchError(f"the keeper's family below pid {self._top} is gone")
        return found

    def keeper_memory(self) -> Memory:
        """Return what keeper, warden and the fork server hold together."""
        return self._table.memory(self._family())

    def keeper_members(self) -> dict[str, Memory]:
        """Return what each of them holds, by what it is."""
        found: dict[str, Memory] = {}
        for process in self._family():
            name = next((n for part, n in MEMBERS.items() if part in process.command), "keeper")
            found[name] = found.get(name, accounting.NOTHING) + self._table.memory([process])
        return found

    def watch(self, windows: int, clock: Clock) -> Watch:
        """Look at processor time and memory, window by window, until there are *windows* of them.

        One in which the daemon or the keeper was replaced is left out: their start is not what is
        asked. Raises BenchError if that happens too often.
        """
        watched = Watch()
        last: Sight | None = None
        while len(watched.daemon) < windows:
            now = self._look()
            if last is not None and now is not None and now.is_same(last):
                elapsed = now.at - last.at
                watched.daemon.append((now.daemon_seconds - last.daemon_seconds) / elapsed * 100)
                watched.keeper.append((now.keeper_seconds - last.keeper_seconds) / elapsed * 100)
                watched.keeper_memory.append(now.keeper_memory)
                if clock.is_over:
                    break
            elif last is not None or now is None:
                self.replaced += 1
                if self.replaced > MOST_REPLACED:
                    raise BenchError("daemon and keeper do not stay the same: not at rest")
            last = now
            time.sleep(WINDOW_SECONDS)
        return watched

    def _look(self) -> Sight | None:
        """Return what is there now; None while the daemon or the keeper is not."""
        try:
            if self._daemon is None:
                self._daemon = accounting.cpu_cgroup(self._cgroups, daemon_container(self._stage))
            at, seconds = time.monotonic(), accounting.read_cpu_seconds(self._daemon)
            family = self._family()
        except (BenchError, OSError, errors.LabError):
            self._daemon = None
            return None
        return Sight(
            at=at,
            daemon=self._daemon,
            daemon_seconds=seconds,
            keeper=frozenset(process.pid for process in family),
            keeper_seconds=self._table.cpu_seconds(family),
            keeper_memory=self._table.memory(family),
        )

    def per_pod(self, pods: Fleet) -> tuple[list[float], list[float]]:
        """Return the private bytes of what is ours in each pod, and of the engine's shims."""
        processes = self._table.processes()
        by_pid = {process.pid: process for process in processes}
        private: list[float] = []
        shims: dict[int, float] = {}
        for pod in pods.pods:
            found = [p for p in processes if pod.container_id in p.cgroups]
            if not found:
                raise BenchError(f"nothing of pod {pod.name} is left on its node")
            private.append(self._table.memory(found).private)
            for process in found:
                parent = by_pid.get(process.parent)
                if parent is not None and "containerd-shim" in parent.command:
                    shims[parent.pid] = self._table.memory([parent]).private
        return private, list(shims.values())


def fall_asleep(keeper: Keeper, uid: str) -> None:
    """Put a pod to sleep, with the next keeper if this one is replaced."""
    while True:
        try:
            keeper.sleep(uid)
            return
        except ArchitectError:
            keeper.reconnect()


def daemon_container(stage: Stage) -> str:
    """Return the id of the daemon's container on the node. Raises BenchError."""
    for pod in stage.cluster.api.get(f"/api/v1/namespaces/{release.NAMESPACE}/pods")["items"]:
        owners = {owner["kind"] for owner in pod["metadata"].get("ownerReferences", [])}
        if pod["spec"].get("nodeName") != stage.node.name or "DaemonSet" not in owners:
            continue
        for status in pod["status"].get("containerStatuses", []):
            if "running" in status["state"]:  # one that ends or starts has a pod, too
                return str(status["containerID"]).rpartition("//")[2]
    raise BenchError(f"no daemon runs on {stage.node.name}")


def _results(
    scenario: Scenario,
    *,
    values: Mapping[str, list[float]],
    parts: Mapping[str, Mapping[str, list[float]]],
    baseline: Mapping[str, Mapping[str, list[float]]],
    conditions: str,
    wanted: Mapping[str, int],
    windows: int,
) -> list[Result]:
    def spreads(found: Mapping[str, list[float]]) -> dict[str, Spread]:
        return {name: Spread.of(listed) for name, listed in found.items()}

    return [
        Result(
            name=quantity.name,
            unit=quantity.unit,
            spread=Spread.of(values[quantity.name]),
            goal=quantity.goal,
            parts=spreads(parts.get(quantity.name, {})),
            baseline=spreads(baseline.get(quantity.name, {})),
            conditions=conditions,
            wanted=wanted.get(quantity.name, windows),
        )
        for quantity in scenario.quantities
    ]
