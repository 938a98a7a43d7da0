"""What would become of a node's pods if its machine were announced to end now (pure).

It is told all the time where machines are taken back: in metrics, in an annotation of the Node, and
by an event on each pod that would be lost. So what is said must stand still while nothing changes:
a pod's memory always does, a little.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from architect.daemon.spot import planner
from architect.daemon.spot.inputs import Pod, Rates, Request, usable_seconds
from architect.daemon.spot.need import Need, need
from architect.daemon.spot.planner import Misfit, Plan, Saved, Stored

VERSION: Final = 1

SAME_SHARE: Final = 0.05
SAME_BYTES: Final = 4 << 20
"""A size that differs by less than either of these from what was planned with is the same one."""

SAME_SECONDS: Final = 2.0

NOTHING_TO_LOSE: Final = frozenset({"NotBegun", "PodFinished"})

UNTOLD: Final = NOTHING_TO_LOSE | frozenset(
    {
        planner.STORE_UNREACHABLE,
        planner.STAYS_ON_NODE,
        "DaemonSet",
        "DeletedOnPurpose",
        "Fresh",
        "MigrationOff",
        "NoObjectStore",
        "RunsAgain",
    }
)
"""Reasons that no pod is told of: somebody wants it so, or it is nothing about the pod. They are
counted all the same, but for where there is nothing to lose."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What was found at one moment."""

    notice_seconds: float
    request: Request
    """Its deadline is what of the notice can be used."""
    plan: Plan
    need: Need

    @property
    def misfits(self) -> dict[str, int]:
        """How many pods would be lost, by reason."""
        verdicts = [outcome.verdict for outcome in self.plan.outcomes]
        words = collections.Counter(v.reason for v in verdicts if isinstance(v, Misfit))
        return {word: n for word, n in sorted(words.items()) if word not in NOTHING_TO_LOSE}

    @property
    def saved(self) -> int:
        """How many pods would be saved in time."""
        return sum(isinstance(o.verdict, Saved) for o in self.plan.outcomes)

    @property
    def stored(self) -> int:
        """How many lie in the object store already."""
        return sum(isinstance(o.verdict, Stored) for o in self.plan.outcomes)


def look(request: Request, *, notice_seconds: float) -> Outlook:
    """Return what would become of the pods of *request*, made with :func:`deadline`."""
    return Outlook(
        notice_seconds=notice_seconds,
        request=request,
        plan=planner.plan(request),
        need=need(request),
    )


def deadline(notice_seconds: float) -> float:
    """Return how much of a notice can be planned with."""
    return usable_seconds(notice_seconds)


def is_same(one: Request, other: Request) -> bool:
    """Whether a plan for *one* will do for *other*."""
    facts = [
        (r.deadline_seconds, r.cores, r.bounds, r.is_store_reachable, len(r.pods))
        for r in (one, other)
    ]
    if facts[0] != facts[1] or not _are_same_rates(one.rates, other.rates):
        return False
    pairs = zip(sorted(one.pods, key=_key), sorted(other.pods, key=_key), strict=True)
    return all(_is_same_pod(a, b) for a, b in pairs)


def _key(pod: Pod) -> tuple[object, ...]:
    return pod.name, pod.state.value, pod.image_bytes


def _is_same_pod(one: Pod, other: Pod) -> bool:
    kinds = [(p.name, p.state, p.priority, p.is_for_store, p.obstacle) for p in (one, other)]
    return kinds[0] == kinds[1] and all(
        _is_close(getattr(one, name), getattr(other, name), within=SAME_BYTES)
        for name in ("image_bytes", "stored_bytes")
    )


def _are_same_rates(one: Rates, other: Rates) -> bool:
    return all(_is_close(value, vars(other)[name]) for name, value in vars(one).items())


def _is_close(one: float, other: float, *, within: float = 0.0) -> bool:
    return one == other or abs(one - other) <= max(within, SAME_SHARE * max(abs(one), abs(other)))


def annotation(outlook: Outlook) -> dict[str, Any]:
    """Return what the Node's annotation says, as JSON: see ``docs/spot.md``."""
    found, needed = outlook.need, outlook.need.seconds
    return {
        "version": VERSION,
        "noticeSeconds": outlook.notice_seconds,
        "neededSeconds": None if needed is None else math.ceil(needed),
        "limit": None if found.limit is None else found.limit.value,
        "pods": found.pods,
        "bytes": found.bytes,
        "misfits": outlook.misfits,
    }


def is_news(told: Mapping[str, Any] | None, now: Mapping[str, Any]) -> bool:
    """Whether an annotation differs from what was *told* by more than numbers that drift."""
    if told is None:
        return True
    drifting = ("neededSeconds", "bytes")
    if any(told.get(key) != value for key, value in now.items() if key not in drifting):
        return True
    before, needed = told["neededSeconds"], now["neededSeconds"]
    if before is None or needed is None:
        is_same_time = before is needed
    else:
        is_same_time = _is_close(before, needed, within=SAME_SECONDS)
    return not (is_same_time and _is_close(told["bytes"], now["bytes"], within=SAME_BYTES))
