"""What is done at this moment about pods whose machine ends: the plan's word, pod by pod (pure).

Whom there is time for is told to leave at once; turns and uploads follow the plan's order. For whom
there is none is another matter: rates are learnt while others are on their way, and a later plan
may have time. So those are told only when half of the notice is over; the other half is theirs to
end in order, by their signal. Whom the store keeps waiting has hope for longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from architect.daemon.spot import planner
from architect.daemon.spot.inputs import Pod, State
from architect.daemon.spot.planner import Misfit, Plan, Saved

HOPE: Final = 0.5
"""The part of a notice in which nobody is told that there is no time."""
STORE_HOPE: Final = 0.8
"""The same as long as it is the store that does not answer."""

LEFT_ALONE: Final = frozenset(
    {
        "DaemonSet",
        "Fresh",
        "Gvisor",
        "JobNotIndexed",
        "Malformed",
        "MigrationOff",
        "NoController",
        "NoObjectStore",
        "NoOrdinal",
        "NotBegun",
        "RunsAgain",
    }
)
"""Obstacles of pods that nobody replaces with the same identity, or whose user wants no move: they
end with their machine, unless somebody drains it."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """What is done now."""

    order: tuple[str, ...]
    """Uids, as they have their turns and are sent."""
    captures: int
    """How many at once."""
    leave: tuple[str, ...]
    """Uids of those that are told to leave."""
    refuse: Mapping[str, Misfit] = field(default_factory=dict)
    """By uid: those that are told that there is no time for them, and why."""
    waiting: Mapping[str, Misfit] = field(default_factory=dict)
    """Those for whom there is no time as it looks now."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What people are told of an evacuation, once it is news."""

    saved: int
    pods: int
    bytes: int
    seconds: float
    """By when the last one is saved."""
    misfits: tuple[str, ...]
    """Names of those for which there is no time as it looks now, with the reason."""


def course(plan: Plan, pods: Mapping[str, Pod], *, over: float) -> Course:
    """Return what is done when the part *over* (0 to 1) of the notice is over.

    *pods* are those of the plan, by uid.
    """
    uids = {pod.name: uid for uid, pod in pods.items()}
    # What is captured is sent in any case: it is all that is left of its pod.
    late = [
        o.pod
        for o in plan.outcomes
        if o.pod.state is State.CAPTURED and isinstance(o.verdict, Misfit)
    ]
    order = tuple(uids[pod.name] for pod in (*plan.order, *late))
    leave = [
        uids[o.pod.name]
        for o in plan.outcomes
        if isinstance(o.verdict, Saved) and o.pod.state in (State.AWAKE, State.ASLEEP)
    ]
    refuse: dict[str, Misfit] = {}
    waiting: dict[str, Misfit] = {}
    for pod, verdict in plan.outcomes:
        if not isinstance(verdict, Misfit) or pod.state is State.CAPTURED:
            continue
        if verdict.reason in LEFT_ALONE:
            continue
        has_hope = over < _hope(verdict, pod)
        (waiting if has_hope else refuse)[uids[pod.name]] = verdict
    return Course(
        order=order,
        captures=plan.manner.captures,
        leave=tuple(leave),
        refuse=refuse,
        waiting=waiting,
    )


def _hope(verdict: Misfit, pod: Pod) -> float:
    if pod.obstacle is not None or not pod.is_for_store:
        return 0.0  # no time would help
    return STORE_HOPE if verdict.reason == planner.STORE_UNREACHABLE else HOPE
