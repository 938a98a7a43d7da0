"""What is measured, how often, in which order, and for how long. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from bench.errors import BenchError

RUNS: Final = 50
RUNS_WITH_P99_GOAL: Final = 200
"""A 99th percentile of 50 values is their largest."""
GENEROSITY: Final = 1.5

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A figure in the results file."""

    name: str
    unit: str
    goal: Mapping[str, float] = field(default_factory=dict)
    at_least: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is done to measure one or several quantities together."""

    name: str
    quantities: tuple[Quantity, ...]
    runs: int
    weight: float
    """Share of the whole time, in minutes of a quiet run on two cores."""


@dataclass(frozen=True, kw_only=True)
class WakeScenario(Scenario):
    """A process of one size sleeps and is woken through its Service."""

    mebibytes: int
    is_cold: bool
    pods: int
    """They sleep together and are woken one by one, so that each has slept for a while and what
    follows its falling asleep (events, labels, the resize of its requests) is over."""
    baseline_every: int
    """Runs per run of the baselines, which take far longer."""


@dataclass(frozen=True, kw_only=True)
class MoveScenario(Scenario):
    """Pods of one size are evicted, and go on on another node."""

    mebibytes: int
    pods: int
    baseline_every: int
    """Runs per run of the baseline without Architect."""


@dataclass(frozen=True, kw_only=True)
class StoreScenario(Scenario):
    """A checkpoint goes to the object store and comes back."""

    mebibytes: int


@dataclass(frozen=True, kw_only=True)
class PeerScenario(Scenario):
    """A checkpoint goes from one node to another."""

    mebibytes: int
    wire_gbps: float | None = None
    """What a wire between them would carry; None: there is none, and memory is the bound."""


@dataclass(frozen=True, kw_only=True)
class SpotScenario(Scenario):
    """A node gets the notice that its machine ends, and saves all its pods in the object store."""

    sizes: Mapping[int, int]
    """Mebibytes to so many pods of that size."""


MOVES: Final = 20
"""A run of a move takes seconds, most of them Kubernetes's."""


def _move(
    mebibytes: int,
    *,
    goal: float | None = None,
    own_goal: float | None = None,
    runs: int = MOVES,
    weight: float,
    baseline_every: int,
    more: tuple[Quantity, ...],
) -> MoveScenario:
    name = f"migration.first_reply.{mebibytes}MB"
    return MoveScenario(
        name=name,
        quantities=(
            Quantity(name=name, unit="ms", goal=_median(goal)),
            Quantity(name=f"{name}.service", unit="ms", goal=_median(goal)),
            Quantity(name=f"migration.own.{mebibytes}MB", unit="ms", goal=_median(own_goal)),
            *more,
        ),
        runs=runs,
        weight=weight,
        mebibytes=mebibytes,
        pods=1,
        baseline_every=baseline_every,
    )


def _median(goal: float | None) -> dict[str, float]:
    return {} if goal is None else {"p50": goal}


def _wake(
    mebibytes: int,
    *,
    is_cold: bool,
    runs: int = RUNS,
    pods: int,
    baseline_every: int,
    weight: float,
    goal: Mapping[str, float] | None = None,
    sleep_goal: Mapping[str, float] | None = None,
) -> WakeScenario:
    name = f"wake.first_byte.{mebibytes}MB"
    quantities = [Quantity(name=f"{name}.cold" if is_cold else name, unit="ms", goal=goal or {})]
    if not is_cold:
        # What is in the page cache before a sleep does not matter to it: one figure is enough.
        quantities.append(
            Quantity(name=f"sleep.{mebibytes}MB", unit="ms", goal=sleep_goal or {}),
        )
    return WakeScenario(
        name=quantities[0].name,
        quantities=tuple(quantities),
        runs=runs,
        weight=weight,
        mebibytes=mebibytes,
        is_cold=is_cold,
        pods=pods,
        baseline_every=baseline_every,
    )


EXEC: Final = Scenario(
    name="exec",
    quantities=(Quantity(name="exec.asleep.64MB", unit="ms", goal={"p50": 350}),),
    runs=RUNS,
    weight=3,
)
CREATE: Final = Scenario(
    name="create",
    quantities=(Quantity(name="create.overhead", unit="ms", goal={"p50": 25}),),
    runs=RUNS,
    weight=1,
)
FIFTY: Final = Scenario(
    name="fifty",
    quantities=(
        Quantity(name="memory.per_sleeping_pod", unit="MB", goal={"p50": 1}),
        Quantity(name="memory.keeper", unit="MB", goal={"p99": 30}),
        Quantity(name="daemon.cpu.50pods", unit="% of a core", goal={"mean": 1}),
        Quantity(name="daemon.cpu.50pods.asleep", unit="% of a core"),
        Quantity(name="keeper.cpu.50pods", unit="% of a core"),
        Quantity(name="keeper.cpu.50pods.asleep", unit="% of a core"),
    ),
    runs=RUNS,
    weight=8.5,
)
"""Its runs are its pods."""

DRAIN: Final = MoveScenario(
    name="drain.20pods",
    quantities=(Quantity(name="drain.20pods", unit="ms", goal={"p50": 20_000}),),
    runs=10,
    weight=7,
    mebibytes=64,
    pods=20,
    baseline_every=5,
)

PEER: Final = PeerScenario(
    name="transfer.peer",
    quantities=(Quantity(name="transfer.peer.ratio", unit="", at_least={"p50": 0.7}),),
    runs=20,
    weight=1.5,
    mebibytes=1024,
)

PEER_BY_WIRE: Final = PeerScenario(
    name="transfer.peer.10Gbps",
    quantities=(Quantity(name="transfer.peer.ratio.10Gbps", unit="", at_least={"p50": 0.7}),),
    runs=20,
    weight=1.5,
    mebibytes=1024,
    wire_gbps=10,
)

STORE: Final = StoreScenario(
    name="transfer.s3",
    quantities=(
        Quantity(name="transfer.s3.up.ratio", unit="", at_least={"p50": 0.7}),
        Quantity(name="transfer.s3.down.ratio", unit="", at_least={"p50": 0.7}),
        Quantity(name="store.memory.1024MB", unit="MB", goal={"p50": 200}),
    ),
    runs=10,
    weight=3,
    mebibytes=1024,
)

SPOT: Final = SpotScenario(
    name="spot",
    quantities=(
        Quantity(name="spot.notice_to_safe.4GiB", unit="s"),
        Quantity(name="spot.ratio", unit="", goal={"p50": 1.4}),
    ),
    runs=3,
    weight=7,
    sizes={2048: 1, 576: 1, 256: 2, 128: 4, 64: 4, 32: 4, 16: 4},
)
"""Twenty pods, 4 GiB in all."""

SCENARIOS: Final[tuple[Scenario, ...]] = (
    _wake(
        64,
        is_cold=False,
        runs=RUNS_WITH_P99_GOAL,
        pods=10,
        baseline_every=4,
        weight=6.5,
        goal={"p50": 90, "p99": 250},
        sleep_goal={"p50": 160},
    ),
    _wake(16, is_cold=False, pods=10, baseline_every=2, weight=2, goal={"p50": 45}),
    _wake(64, is_cold=True, pods=10, baseline_every=2, weight=2),
    EXEC,
    CREATE,
    _wake(16, is_cold=True, pods=10, baseline_every=2, weight=2),
    _wake(256, is_cold=False, pods=10, baseline_every=3, weight=3),
    _wake(256, is_cold=True, pods=10, baseline_every=3, weight=3),
    FIFTY,
    _move(
        64,
        goal=3000,
        own_goal=700,
        weight=4,
        baseline_every=2,
        more=(
            Quantity(name="migration.freeze.64MB", unit="ms"),
            Quantity(name="migration.failed_requests.64MB", unit="requests"),
        ),
    ),
    _move(
        1024,
        goal=6000,
        own_goal=3000,
        weight=5.5,
        baseline_every=4,
        more=(Quantity(name="migration.copy.ratio.1024MB", unit=""),),
    ),
    DRAIN,
    _move(
        2048,
        runs=10,
        weight=3,
        baseline_every=5,
        more=(Quantity(name="daemon.memory.2048MB", unit="MB", goal={"p50": 200}),),
    ),
    PEER,
    PEER_BY_WIRE,
    STORE,
    SPOT,
    _wake(1024, is_cold=False, pods=4, baseline_every=4, weight=6),
    _wake(1024, is_cold=True, pods=4, baseline_every=4, weight=6.5),
)
"""Those with a goal first: what the time does not suffice for comes last."""


def select(wanted: Sequence[str]) -> list[Scenario]:
    """Return the scenarios for names of quantities or beginnings of such; for none, all.

    ``wake`` and ``wake.first_byte.64MB`` are such beginnings, ``wake.first`` is none.
    """
    if not wanted:
        return list(SCENARIOS)
    for name in wanted:
        if not any(_is_meant(q.name, name) for s in SCENARIOS for q in s.quantities):
            known = ", ".join(q.name for s in SCENARIOS for q in s.quantities)
            raise BenchError(f"nothing is called {name!r}; there are {known}")
    return [
        scenario
        for scenario in SCENARIOS
        if any(_is_meant(q.name, name) for q in scenario.quantities for name in wanted)
    ]


def _is_meant(quantity: str, name: str) -> bool:
    if name.startswith("wake.") and name.endswith("MB"):
        return quantity == name  # the cold one is a quantity of its own, not a part
    return quantity == name or quantity.startswith(f"{name}.")


def batches(runs: int, pods: int) -> Iterator[range]:
    """Yield the numbers of the runs that sleep together, *pods* at most."""
    for first in range(0, runs, pods):
        yield range(first, min(first + pods, runs))


def rotated(contestants: Sequence[_T], run: int) -> list[_T]:
    """Return *contestants* in the order of one run.

    Each comes first, second, … equally often, so that what grows over a run (heat, a neighbour's
    load, a full disk queue) falls on all of them alike.
    """
    if not contestants:
        return []
    at = run % len(contestants)
    return [*contestants[at:], *contestants[:at]]


def allotted_seconds(remaining_seconds: float, weights: Sequence[float]) -> float:
    """Return what the first of the scenarios with *weights* may take of the time that is left.

    More than its share: on a machine that is busy with other things, those at the beginning, which
    have goals, come to their number of runs, and those at the end have fewer.
    """
    left = max(0.0, remaining_seconds)
    return min(left, left * weights[0] / sum(weights) * GENEROSITY)
