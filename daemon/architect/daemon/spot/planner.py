"""Which pods are saved inside the time that is left, in which order, and by when.

Pods have a *rank*: higher priority first, among equals those first that have less to be sent. They
are looked at by rank. Each is taken if it, and all that were taken before it, are saved in time;
else it is left out, and the next one is looked at. In which order they are then carried out is
another matter (:mod:`architect.daemon.spot.schedule`). Three things follow.

- Whoever comes later changes nothing for a pod, so none is saved at the cost of one of higher
  priority. Since the small ones come first, as many are saved as can be of equals that differ in
  nothing but size.
- With more time or speed, the first pod by rank for which something changes is one that is saved
  then and was not before. So a pod that was saved is left out only for one *before* it, which was
  too much before. :attr:`Saved.yields_to` names the first such pod; without one, more of anything
  never makes the pod stop fitting.
- That it holds for every pod cannot be had: decision 16.

Several manners of carrying it out are planned, and that one is taken in which this order comes out
best; so it holds across them, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from architect.daemon.spot import schedule
from architect.daemon.spot.inputs import Pod, Request, State
from architect.daemon.spot.schedule import TURNS_BYTES, Manner, Schedule

STORE_UNREACHABLE: Final = "StoreUnreachable"
STAYS_ON_NODE: Final = "StaysOnNode"
NO_TIME: Final = "NoTime"
NO_RATE: Final = "NoRate"
TOO_LARGE: Final = "TooLarge"
NO_TIME_LEFT: Final = "NoTimeLeft"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The pod lies in the object store already."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """The pod will lie there in time."""

    by_seconds: float
    """From now on."""
    yields_to: str | None = None
    """A pod before it that is too much for the time; with more of it, that one may fit instead."""


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """The pod will not be saved."""

    reason: str
    """A stable CamelCase word."""
    text: str


Verdict = Stored | Saved | Misfit


class Outcome(NamedTuple):
    """What becomes of a pod."""

    pod: Pod
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What :func:`plan` decided."""

    outcomes: tuple[Outcome, ...]
    """Every pod, by rank."""
    order: tuple[Pod, ...]
    """Those that will be saved, in the order in which they are captured and sent."""
    manner: Manner
    objects: int
    """That are sealed and sent at once."""

    @property
    def seconds(self) -> float:
        """By when the last of them is saved; 0 without one."""
        verdicts = (outcome.verdict for outcome in self.outcomes)
        return max((v.by_seconds for v in verdicts if isinstance(v, Saved)), default=0.0)


def plan(request: Request) -> Plan:
    """Return what becomes of each pod. The order in which they are given means nothing."""
    ranked = sorted(request.pods, key=schedule.rank)
    plans = [_plan_in(request, ranked, manner) for manner in manners(request)]
    return max(plans, key=_worth)


def manners(request: Request) -> list[Manner]:
    """Return what is tried: powers of two for the captures at once, and as many as may be."""
    most = max(1, request.bounds.captures)
    numbers = [*(1 << n for n in range(most.bit_length()) if 1 << n < most), most]
    return [Manner(captures=n, turn_bytes=t) for n in numbers for t in TURNS_BYTES]


def _worth(found: Plan) -> tuple[object, ...]:
    """Return what is compared: who is saved, the first by rank first; then by when.

    Nothing else may come before that: see the module's text. If all of it is the same, more
    captures at once are better, for what lies on the disk waits for the network only, and so is
    who is small first.
    """
    fits = tuple(not isinstance(outcome.verdict, Misfit) for outcome in found.outcomes)
    return fits, -found.seconds, found.manner.captures, -found.manner.turn_bytes


def _plan_in(request: Request, ranked: Sequence[Pod], manner: Manner) -> Plan:
    verdicts: list[Verdict | None] = [_certain(pod, request) for pod in ranked]
    timely = [n for n, verdict in enumerate(verdicts) if verdict is None]
    carried_out = Schedule(request, ranked, manner)
    ends = carried_out.ends(_taken(timely, carried_out))
    yields_to: str | None = None
    for n in timely:
        if n in ends:
            verdicts[n] = Saved(by_seconds=ends[n], yields_to=yields_to)
        else:
            verdicts[n] = _misfit(n, request, ranked)
            yields_to = yields_to or ranked[n].name
    return Plan(
        outcomes=tuple(Outcome(p, v) for p, v in zip(ranked, verdicts, strict=True) if v),
        order=tuple(ranked[n] for n in ends),
        manner=manner,
        objects=max(1, request.bounds.objects),
    )


def _taken(timely: Sequence[int], carried_out: Schedule) -> list[int]:
    """Return whom there is time for: each that fits beside those who were taken before it."""
    taken: list[int] = []
    done, step = 0, len(timely)
    while done < len(timely):
        more = timely[done : done + step]
        if carried_out.fits([*taken, *more]):
            taken += more
            done += len(more)
            step *= 2
        elif len(more) > 1:
            # Of what fits, each part fits.
            step = len(more) // 2
        else:
            done += 1
    return taken


def _certain(pod: Pod, request: Request) -> Stored | Misfit | None:
    """Return what becomes of a pod whatever the time; None: that depends."""
    if pod.state is State.STORED:
        return Stored()
    if pod.obstacle is not None:
        return Misfit(reason=pod.obstacle.reason, text=pod.obstacle.text)
    if not pod.is_for_store:
        return Misfit(reason=STAYS_ON_NODE, text="it is not for the object store")
    if not request.is_store_reachable:
        return Misfit(reason=STORE_UNREACHABLE, text="the object store does not answer")
    return None


def _misfit(place: int, request: Request, ranked: Sequence[Pod]) -> Misfit:
    # Whatever the plan's manner: a pod by itself is captured the faster, the fewer may be beside.
    by_itself = Schedule(request, [ranked[place]], Manner(captures=1, turn_bytes=0))
    alone = by_itself.seconds([0])
    if alone == math.inf:
        still = ", ".join(request.rates.still) or "nothing, to speak of"
        return Misfit(reason=NO_RATE, text=f"it would never end; without speed: {still}")
    if not request.deadline_seconds > 0:
        return Misfit(reason=NO_TIME, text="there is no time at all")
    if by_itself.fits([0]):
        return Misfit(reason=NO_TIME_LEFT, text="those before it take the time")
    return Misfit(reason=TOO_LARGE, text=f"alone it would take {alone:.1f} s")
