"""Nodes to plan for, and a simulation of a node that carries a plan out.

The simulation shares nothing with the planner but its inputs: it moves time from event to event,
and what is under way shares cores, disk and network as it comes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

from architect.checkpoint.envelope import SHARD_BYTES
from architect.core.obstacles import Obstacle
from architect.daemon.spot.inputs import Bounds, Pod, Rates, Request, State
from architect.daemon.spot.planner import Plan, Saved

MIB = 1 << 20
UNSAVED = (State.AWAKE, State.ASLEEP, State.CAPTURED)


def rates(low: int, high: int) -> st.SearchStrategy[float]:
    """Return rates between two powers of ten, as many small ones as large ones."""
    return st.integers(low * 100, high * 100).map(lambda n: 10 ** (n / 100))


any_rates = st.builds(
    Rates,
    capture_fixed_seconds=st.sampled_from([0.0, 0.2, 1.0, 2.2]),
    dump_bytes_per_second_per_core=rates(8, 10),
    hash_bytes_per_second_per_core=rates(8, 10),
    disk_bytes_per_second=rates(7, 10),
    seal_bytes_per_second_per_core=rates(7, 10),
    upload_bytes_per_second=rates(7, 10),
    upload_object_seconds=st.sampled_from([0.0, 0.01, 0.1]),
)
any_bounds = st.builds(Bounds, captures=st.integers(1, 8), objects=st.integers(1, 16))
# Half of them small, and many alike.
any_bytes = st.sampled_from([16 * MIB, 64 * MIB, 1024 * MIB]) | st.integers(0, 512).map(
    lambda n: n * MIB
)


@st.composite
def pods(
    draw: st.DrawFn,
    *,
    sizes: st.SearchStrategy[int] = any_bytes,
    priorities: Sequence[int] = (0, 0, 1000),
    states: Sequence[State] = tuple(State),
    has_copies: bool = True,
    has_obstacles: bool = True,
    most: int = 12,
) -> tuple[Pod, ...]:
    """Draw the pods of a node."""
    found = []
    for number in range(draw(st.integers(0, most))):
        size = draw(sizes)
        is_copied = has_copies and draw(st.booleans())
        is_hindered = has_obstacles and draw(st.integers(0, 9)) == 0
        found.append(
            Pod(
                name=f"shop/pod-{number}",
                image_bytes=size,
                stored_bytes=draw(st.integers(0, size)) if is_copied else 0,
                state=draw(st.sampled_from(states)),
                priority=draw(st.sampled_from(priorities)),
                is_for_store=not has_obstacles or draw(st.integers(0, 9)) > 0,
                obstacle=Obstacle("PersistentVolume", "volume data") if is_hindered else None,
            )
        )
    return tuple(found)


def requests(
    pods: st.SearchStrategy[tuple[Pod, ...]], *, deadlines: tuple[float, float] = (0.5, 60)
) -> st.SearchStrategy[Request]:
    """Return nodes with *pods*, some of which are short of time."""
    return st.builds(
        Request,
        deadline_seconds=st.floats(*deadlines),
        pods=pods,
        cores=st.sampled_from([1, 2, 4, 16]),
        rates=any_rates,
        bounds=any_bounds,
    )


def saved(plan: Plan) -> dict[str, float]:
    """Return who is saved, and by when."""
    return {
        pod.name: verdict.by_seconds for pod, verdict in plan.outcomes if isinstance(verdict, Saved)
    }


@dataclass(kw_only=True)
class _Activity:
    """Something under way: parts, one after the other, each of which shares something."""

    parts: list[tuple[str, float]]
    """What it shares, and how much of it is left: bytes, or seconds of nothing."""
    then: Callable[[], None]
    haste: float = 1.0
    """How many times faster it is than it must be."""


@dataclass(kw_only=True)
class Simulation:
    """A node that carries out *plan*, as fast as *request* says or faster."""

    request: Request
    plan: Plan
    luck: random.Random | None = None
    """Some things are faster than they must be; None: nothing is."""
    now: float = 0.0
    done: dict[str, float] = field(default_factory=dict)
    _under_way: list[_Activity] = field(default_factory=list)

    def run(self) -> dict[str, float]:
        """Return when each pod of the plan's order lies in the store."""
        self._to_capture = list(self.plan.order)
        self._captured: set[str] = set()
        self._unsent = {pod.name: _objects(pod) for pod in self.plan.order}
        self._unfinished = {pod.name: len(_objects(pod)) for pod in self.plan.order}
        self._free_slots = self.plan.manner.captures
        self._free_streams = self.plan.objects
        for pod in [p for p in self._to_capture if p.state is State.CAPTURED]:
            self._to_capture.remove(pod)
            self._is_captured(pod)
        self._begin_what_can_begin()
        while self._under_way:
            self._step()
        return self.done

    def _step(self) -> None:
        speeds = [self._speed(activity) for activity in self._under_way]
        left = [
            amount / speed if amount else 0.0
            for (_, amount), speed in zip(
                (a.parts[0] for a in self._under_way), speeds, strict=True
            )
        ]
        passed = min(left)
        self.now += passed
        over = []
        for activity, speed, seconds in zip(list(self._under_way), speeds, left, strict=True):
            what, amount = activity.parts[0]
            if seconds <= passed:
                activity.parts.pop(0)
                if not activity.parts:
                    self._under_way.remove(activity)
                    over.append(activity)
            else:
                activity.parts[0] = what, amount - speed * passed
        for activity in over:
            activity.then()
        self._begin_what_can_begin()

    def _speed(self, activity: _Activity) -> float:
        rates, half = self.request.rates, self.request.cores / 2
        what = activity.parts[0][0]
        sharers = sum(1 for a in self._under_way if a.parts[0][0] == what)
        if what in ("dump", "read"):
            sharers = sum(1 for a in self._under_way if a.parts[0][0] in ("dump", "read"))
            per_byte = [1 / rates.hash_bytes_per_second_per_core]
            if what == "dump":
                per_byte.append(1 / rates.dump_bytes_per_second_per_core)
            speed = min(
                1 / max(per_byte),
                half / sharers / sum(per_byte),
                rates.disk_bytes_per_second / sharers,
            )
        elif what in ("prove", "seal"):
            sharers = sum(1 for a in self._under_way if a.parts[0][0] in ("prove", "seal"))
            speed = min(1.0, half / sharers) * (
                rates.hash_bytes_per_second_per_core
                if what == "prove"
                else rates.seal_bytes_per_second_per_core
            )
        elif what == "send":
            speed = rates.upload_bytes_per_second / sharers
        else:
            speed = 1.0
        return speed * activity.haste

    def _begin_what_can_begin(self) -> None:
        while self._free_slots and self._to_capture:
            self._free_slots -= 1
            self._capture(self._to_capture.pop(0))
        while self._free_streams:
            ready = (p for p in self.plan.order if p.name in self._captured)
            pod = next((p for p in ready if self._unsent[p.name]), None)
            if pod is None:
                break
            self._free_streams -= 1
            self._send(pod, self._unsent[pod.name].pop(0))

    def _capture(self, pod: Pod) -> None:
        what = "dump" if pod.state is State.AWAKE else "read"
        wait = self.request.rates.capture_fixed_seconds

        def then() -> None:
            self._free_slots += 1
            self._is_captured(pod)

        self._begin([("wait", wait), (what, pod.image_bytes)], then)

    def _is_captured(self, pod: Pod) -> None:
        self._captured.add(pod.name)
        if not self._unfinished[pod.name]:
            self._commit(pod)

    def _send(self, pod: Pod, size: int) -> None:
        wait = self.request.rates.upload_object_seconds

        def then() -> None:
            self._free_streams += 1
            self._unfinished[pod.name] -= 1
            if not self._unfinished[pod.name]:
                self._commit(pod)

        self._begin([("prove", size), ("seal", size), ("wait", wait), ("send", size)], then)

    def _commit(self, pod: Pod) -> None:
        wait = self.request.rates.upload_object_seconds

        def then() -> None:
            self.done[pod.name] = self.now

        self._begin([("wait", wait)], then)

    def _begin(self, parts: list[tuple[str, float]], then: Callable[[], None]) -> None:
        haste = self.luck.choice([1.0, 1.0, 1.3, 5.0]) if self.luck else 1.0
        self._under_way.append(_Activity(parts=parts, then=then, haste=haste))


def _objects(pod: Pod) -> list[int]:
    whole, rest = divmod(pod.sent_bytes, SHARD_BYTES)
    return [SHARD_BYTES] * whole + ([rest] if rest else [])


MORE = ("deadline_seconds", "cores", *vars(Rates()))
"""What there may be more of."""


def with_more(request: Request, what: str, *, factor: float) -> Request:
    """Return *request* with *factor* times the speed, time or cores."""
    if what == "deadline_seconds":
        return replace(request, deadline_seconds=request.deadline_seconds * factor)
    if what == "cores":
        return replace(request, cores=math.ceil(request.cores * factor))
    value: float = getattr(request.rates, what)
    value = value * factor if "bytes_per_second" in what else value / factor
    return replace(request, rates=replace(request.rates, **{what: value}))
