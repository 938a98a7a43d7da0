"""Sleep, and the first byte through the Service after it; beside it plain runc and plain CRIU."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from architect.api import names
from architect.api.keeper import Event
from architect.core.errors import ArchitectError
from bench import conditions, figures, fleet, pagecache, plan
from bench.clock import Clock
from bench.errors import BenchError
from bench.figures import Result, Spread
from bench.fleet import BenchPod, Fleet, FleetSpec
from bench.keeper import Keeper
from bench.plan import WakeScenario
from bench.processes import inside
from bench.stage import REQUEST_SECONDS, Stage
from lab import errors

PAUSE_SECONDS: Final = 0.4
"""Between two measures: what follows a wake (events, labels, requests) is load, too."""
SETTLE_SECONDS: Final = 20.0
"""How long labels and requests of a batch may take; what is late is told in the conditions."""

Values = defaultdict[str, list[float]]


@dataclass(kw_only=True)
class _Run:
    """One scenario at work."""

    stage: Stage
    scenario: WakeScenario
    fleet: Fleet
    keeper: Keeper
    identities: dict[str, str] = field(default_factory=dict)
    """Pod uid to the identity that only its memory knows."""
    first_byte: list[float] = field(default_factory=list)
    sleep: list[float] = field(default_factory=list)
    awake: list[float] = field(default_factory=list)
    wake_parts: Values = field(default_factory=lambda: defaultdict(list))
    sleep_parts: Values = field(default_factory=lambda: defaultdict(list))
    wake_baseline: Values = field(default_factory=lambda: defaultdict(list))
    sleep_baseline: Values = field(default_factory=lambda: defaultdict(list))
    unsettled: int = 0
    """Batches whose labels or requests did not follow in time."""
    woken_by_others: int = 0
    still_cached: int = 0
    """Most bytes of an image that could not be dropped from the page cache."""

    def meet(self) -> None:
        """Learn who everybody is, and warm up what only the first request pays for."""
        for pod in self.fleet.pods:
            deadline = time.monotonic() + REQUEST_SECONDS
            while True:
                try:
                    self.identities[pod.uid] = str(self._ask(pod)[1]["identity"])
                    break
                except BenchError:
                    # kube-proxy learns of a Service a moment after its pod is ready
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.2)

    def batch(self, runs: range, clock: Clock) -> None:
        """Put as many pods to sleep, wake them one by one; what stands beside them alike.

        Somebody may replace the keeper, stop the API server or fill the disk in between: the rest
        of the batch is then left out.
        """
        try:
            self._batch(runs, clock)
        except (ArchitectError, errors.LabError) as error:
            self.stage.cluster.progress.say(f"  interrupted: {error}")
            self.keeper.reconnect()

    def _batch(self, runs: range, clock: Clock) -> None:
        pods = self.fleet.pods[: len(runs)]
        uids = [pod.uid for pod in pods]
        for uid in uids:
            if self.keeper.is_asleep(uid):
                self.keeper.wake(uid)
        self._settle(uids, asleep=False)
        beside = {
            run: number for number, run in enumerate(r for r in runs if self._has_baseline(r))
        }
        for run, pod in zip(runs, pods, strict=True):
            dumps: list[Callable[[], None]] = [partial(self._sleep, pod)]
            if run in beside:
                dumps += [partial(self._dump, kind, beside[run]) for kind in DUMP_NAMES]
            for act in self._ordered(dumps, run):
                act()
                time.sleep(PAUSE_SECONDS / 2)
        self._settle(uids, asleep=True)
        for pod in pods:
            pagecache.settle(self._images(pod))
        for run, pod in zip(runs, pods, strict=True):
            restores: list[Callable[[], None]] = [partial(self._wake, pod)]
            if run in beside:
                restores += [partial(self._restore, kind, beside[run]) for kind in DUMP_NAMES]
                restores.append(self._floor)
            for act in self._ordered(restores, run):
                time.sleep(PAUSE_SECONDS)
                act()
            if clock.is_over:
                return

    def _has_baseline(self, run: int) -> bool:
        return run % self.scenario.baseline_every == 0

    def _ordered(self, acts: Sequence[Callable[[], None]], run: int) -> list[Callable[[], None]]:
        return plan.rotated(acts, run // self.scenario.baseline_every)

    def _settle(self, uids: Sequence[str], *, asleep: bool) -> None:
        if not self.fleet.settle(uids, asleep=asleep, timeout_seconds=SETTLE_SECONDS):
            self.unsettled += 1

    def _sleep(self, pod: BenchPod) -> None:
        since = time.time()
        took = self.keeper.sleep(pod.uid)
        told = self.keeper.told(Event.SLEPT, pod.uid, since=since)
        self.sleep.append(took)
        for step, seconds in told["steps"].items():
            self.sleep_parts[f"keeper: {step}"].append(seconds * 1000)

    def _wake(self, pod: BenchPod) -> None:
        if not self.keeper.is_asleep(pod.uid):
            self.woken_by_others += 1
            return
        if self.scenario.is_cold:
            files = self._images(pod)
            pagecache.drop(files)
            left = sum(map(pagecache.cached_bytes, files))
            self.still_cached = max(self.still_cached, left)
        since = time.time()
        first, answer = self._ask(pod)
        if answer["identity"] != self.identities[pod.uid]:
            raise BenchError(
                f"pod {pod.name} woke without its memory: identity {answer['identity']} instead "
                f"of {self.identities[pod.uid]}"
            )
        told = self.keeper.told(Event.WOKE, pod.uid, since=since)
        self.first_byte.append(first)
        for step, seconds in told["steps"].items():
            self.wake_parts[f"keeper: {step}"].append(seconds * 1000)
        # The first packets are on their way while the keeper still releases the last.
        inside_ms = (told["steps"]["prepare"] + told["steps"]["restore"]) * 1000
        self.wake_parts["all else: network, release, application"].append(first - inside_ms)
        time.sleep(PAUSE_SECONDS / 2)
        self.awake.append(self._ask(pod)[0])

    def _ask(self, pod: BenchPod) -> tuple[float, dict[str, Any]]:
        answer = self.stage.client.call(
            "get",
            timeout_seconds=REQUEST_SECONDS + 10,
            **{"address": pod.service_ip, "port": fleet.PORT, "path": "/"},
            seconds=REQUEST_SECONDS,
        )
        if answer["status"] != "200":
            raise BenchError(f"pod {pod.name} answered {answer}")
        return float(answer["first_byte_ms"]), dict(json.loads(answer["body"]))

    def _dump(self, kind: str, number: int) -> None:
        answer = self._beside("dump", kind=kind, number=number)
        self.sleep_baseline[DUMP_NAMES[kind]].append(answer["dump_ms"])

    def _restore(self, kind: str, number: int) -> None:
        answer = self._beside("restore", kind=kind, number=number, is_cold=self.scenario.is_cold)
        self.still_cached = max(self.still_cached, int(answer["cached_bytes"]))
        self.wake_baseline[f"plain {kind} restore, first byte"].append(answer["first_byte_ms"])

    def _floor(self) -> None:
        answer = self._beside(
            "floor", mebibytes=self.scenario.mebibytes, is_cold=self.scenario.is_cold
        )
        source = "the disk" if self.scenario.is_cold else "the page cache"
        for name, pages in (("small_pages_ms", "fresh small"), ("huge_pages_ms", "fresh huge")):
            self.wake_baseline[f"floor: read {source} into {pages} pages"].append(answer[name])

    def _beside(self, op: str, **arguments: Any) -> dict[str, Any]:
        return self.stage.baselines.call(op, timeout_seconds=REQUEST_SECONDS, **arguments)

    def _images(self, pod: BenchPod) -> list[Any]:
        directory = inside(self.stage.node.machine, names.PODS) / pod.uid
        found = pagecache.files_below(directory)
        if not any(path.name.startswith("pages-") for path in found):
            raise BenchError(f"pod {pod.name} has no memory image in {directory}")
        return found

    def results(self, load: conditions.Load) -> list[Result]:
        """Return what was measured."""
        scenario = self.scenario
        notes = self._notes()
        said = conditions.line(self.stage.host, load, notes=notes)
        wake, *sleep = scenario.quantities
        found = [
            Result(
                name=wake.name,
                unit=wake.unit,
                spread=Spread.of(self.first_byte),
                goal=wake.goal,
                parts=_spreads(self.wake_parts),
                baseline={**_spreads(self.wake_baseline), "awake": Spread.of(self.awake)},
                conditions=said,
                wanted=scenario.runs,
            )
        ]
        found += [
            Result(
                name=quantity.name,
                unit=quantity.unit,
                spread=Spread.of(self.sleep),
                goal=quantity.goal,
                parts=_spreads(self.sleep_parts),
                baseline=_spreads(self.sleep_baseline),
                conditions=said,
                wanted=scenario.runs,
            )
            for quantity in sleep
        ]
        return found

    def _notes(self) -> tuple[str, ...]:
        scenario = self.scenario
        cache = (
            f"image files dropped from the page cache ({self.still_cached >> 10} KiB stayed)"
            if scenario.is_cold
            else "warm page cache"
        )
        notes = [
            f"{scenario.mebibytes} MiB of random memory in a Python HTTP server, a probe every 5 s",
            f"{scenario.pods} pods asleep at once, woken one by one",
            f"client in the network of {self.stage.client_place}, pods on {self.stage.node.name}, "
            "through the ClusterIP",
            cache,
            "baselines without a network of their own",
            f"{self.keeper.busy} sleeps put off by a conversation",
        ]
        if self.unsettled:
            notes.append(
                f"labels or requests of {self.unsettled} batches were later than "
                f"{SETTLE_SECONDS:.0f} s"
            )
        if self.keeper.interruptions or self.woken_by_others:
            notes.append(
                f"{self.keeper.interruptions} interruptions by others (keeper, API server, disk), "
                f"{self.woken_by_others} pods woken by somebody else"
            )
        return tuple(notes)


DUMP_NAMES: Final = {"runc": "plain runc checkpoint", "criu": "plain criu dump"}


def measure(stage: Stage, scenario: WakeScenario, clock: Clock) -> list[Result]:
    """Run one scenario. Raises BenchError, LabError, ArchitectError."""
    progress = stage.cluster.progress
    load = conditions.Load()
    spec = FleetSpec(
        name=f"wake-{scenario.mebibytes}",
        count=min(scenario.pods, scenario.runs),
        mebibytes=scenario.mebibytes,
        node=stage.node.name,
    )
    with fleet.running(stage.cluster, spec) as pods, stage.keeper() as keeper:
        stage.baselines.call(
            "start",
            timeout_seconds=REQUEST_SECONDS * 2,
            count=math.ceil(scenario.pods / scenario.baseline_every),
            code=fleet.CODE.read_text(),
            mebibytes=scenario.mebibytes,
        )
        try:
            run = _Run(stage=stage, scenario=scenario, fleet=pods, keeper=keeper)
            run.meet()
            for numbers in plan.batches(scenario.runs, scenario.pods):
                if clock.is_over:
                    break
                run.batch(numbers, clock)
                progress.say(
                    f"  {scenario.name}: {len(run.first_byte)} of {scenario.runs}"
                    f"{figures.so_far(run.first_byte, 'ms')}"
                )
            return run.results(load)
        finally:
            stage.baselines.call("stop", timeout_seconds=REQUEST_SECONDS)


def _spreads(values: Values) -> dict[str, Spread]:
    return {name: Spread.of(found) for name, found in values.items()}
