"""What would make a pod fit that does not.

Each remedy is enough by itself, beside those pods before it that fit now. What helps a pod may help
one before it first, which then takes what was gained: the order stays what it is. A plan needs none
of this, so it is made apart, once there is time for it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from architect.daemon.spot import planner
from architect.daemon.spot.inputs import Request
from architect.daemon.spot.planner import Misfit, Plan, Saved
from architect.daemon.spot.schedule import Schedule

MOST_TENTHS: Final = 10_000
"""A thousand times the upload rate: more is no advice."""

_TIMELY: Final = frozenset({planner.NO_TIME, planner.TOO_LARGE, planner.NO_TIME_LEFT})
"""Reasons for which there is a remedy: what is in the way of the others is another matter."""


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """What would be enough; of what is None, nothing is."""

    seconds_more: float | None = None
    upload_factor: float | None = None
    """Times the upload rate, in tenths."""
    pods_fewer: int | None = None
    """Of those before it, the largest ones."""


def remedies(request: Request, plan: Plan) -> list[Remedy | None]:
    """Return what would change each outcome of *plan*, which was made for *request*.

    None: the pod fits, or it is not time that is in the way.
    """
    advice, found = _Advice(request, plan), list[Remedy | None]()
    for place, outcome in enumerate(plan.outcomes):
        is_timely = isinstance(outcome.verdict, Misfit) and outcome.verdict.reason in _TIMELY
        found.append(advice.about(place) if is_timely else None)
        if isinstance(outcome.verdict, Saved):
            advice.taken.append(place)
    return found


class _Advice:
    """What is asked again and again: the pods that fit so far, at one upload rate and another."""

    def __init__(self, request: Request, plan: Plan) -> None:
        self.taken: list[int] = []
        self._request = request
        self._manner = plan.manner
        self._pods = [outcome.pod for outcome in plan.outcomes]
        self._at: dict[int, Schedule] = {}

    def about(self, place: int) -> Remedy:
        as_it_is = self._schedule(10)
        by_size = sorted(self.taken, key=lambda n: self._pods[n].sent_bytes)
        more = as_it_is.seconds([*self.taken, place]) - self._request.deadline_seconds
        tenths = _least(
            lambda n: self._schedule(n).fits([*self.taken, place]), low=11, high=MOST_TENTHS
        )
        return Remedy(
            seconds_more=more if math.isfinite(more) else None,
            upload_factor=None if tenths is None else tenths / 10,
            pods_fewer=_least(
                lambda n: as_it_is.fits([*by_size[:-n], place]), low=1, high=len(by_size)
            ),
        )

    def _schedule(self, tenths: int) -> Schedule:
        if tenths not in self._at:
            rate = self._request.rates.upload_bytes_per_second * (tenths / 10)
            rates = dataclasses.replace(self._request.rates, upload_bytes_per_second=rate)
            request = dataclasses.replace(self._request, rates=rates)
            self._at[tenths] = Schedule(request, self._pods, self._manner)
        return self._at[tenths]


def _least(is_enough: Callable[[int], bool], *, low: int, high: int) -> int | None:
    """Return the least number that is enough; None: none is.

    What is more than enough must be enough, too.
    """
    if high < low or not is_enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        if is_enough(middle):
            high = middle
        else:
            low = middle + 1
    return low
