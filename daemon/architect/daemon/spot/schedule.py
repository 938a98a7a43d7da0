"""A set of pods, carried out in one manner: in which order, and by when each is saved.

Higher priority goes first. Among equals a *turn*, which is a size, decides: pods of that size and
more go first, the smallest of them first; then the smaller ones, the largest first. It is the rule
of Johnson for two stages: the streams get something to send soon, pods that are sent for longer
than they are captured for come while the streams would be idle, and at the end there is little left
to be sent. The size where the one becomes the other depends on the rates, so several are tried.

A set fits if each of its pods is in time. What fits still fits without one of its pods, with more
time, and with more speed: :mod:`architect.daemon.spot.planner` is built on that.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from architect.daemon.spot.inputs import Pod, Request, State
from architect.daemon.spot.pipeline import NEVER, TICKS_PER_SECOND, Pace, Pipeline

SAFETY: Final = 1.25
"""By which every time of the model is stretched: what it does not know has a fifth of the time."""

SMALLEST_FIRST: Final = 0
LARGEST_FIRST: Final = 1 << 62
TURNS_BYTES: Final = (SMALLEST_FIRST, 64 << 20, 256 << 20, 1 << 30, LARGEST_FIRST)
"""What is tried. None of them may depend on a rate: a plan with more speed would be another one."""


_LEAST_TO_CAPTURE: Final = (State.STORED, State.CAPTURED, State.ASLEEP, State.AWAKE)


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a set of pods is carried out."""

    captures: int
    """At once."""
    turn_bytes: int


class Schedule:
    """Any of *pods*, carried out in one manner. Pods are told by their places in *pods*."""

    def __init__(self, request: Request, pods: Sequence[Pod], manner: Manner) -> None:
        pace = Pace.of(request, captures=manner.captures)
        self._deadline_seconds = request.deadline_seconds
        self._pace = pace
        self._works = [pace.work(pod) for pod in pods]
        order = sorted(range(len(pods)), key=lambda n: _turn(pods[n], manner.turn_bytes))
        self._turns = [0] * len(pods)
        for turn, place in enumerate(order):
            self._turns[place] = turn

    def ends(self, places: Iterable[int]) -> dict[int, float]:
        """Return these pods in their order, each with the seconds within which it is saved."""
        line = Pipeline(self._pace)
        return {
            place: _seconds(line.add(self._works[place]))
            for place in sorted(places, key=self._turns.__getitem__)
        }

    def seconds(self, places: Iterable[int]) -> float:
        """Return the seconds within which all of these pods are saved."""
        return max(self.ends(places).values(), default=0.0)

    def fits(self, places: Collection[int]) -> bool:
        """Whether all of these pods are saved in time. What never ends is not, whatever it is."""
        # Most of what does not fit needs no closer look.
        if not self._is_in_time(_seconds(self._at_least(places))):
            return False
        return self._is_in_time(self.seconds(places))

    def _at_least(self, places: Iterable[int]) -> int:
        """Return a tick before which the last of these pods cannot be saved."""
        works = [self._works[place] for place in places]
        captures = sum(work.capture for work in works) // self._pace.captures
        return max(captures, sum(work.sending for work in works))

    def _is_in_time(self, seconds: float) -> bool:
        return seconds <= self._deadline_seconds and seconds < math.inf


def _turn(pod: Pod, turn_bytes: int) -> tuple[object, ...]:
    size = pod.sent_bytes
    is_late = size < turn_bytes
    return -pod.priority, is_late, -size if is_late else size, rank(pod)


def rank(pod: Pod) -> tuple[object, ...]:
    """Return what pods are sorted by to decide who is saved: whoever comes first, has precedence.

    All of a pod is in it, so that the order in which pods are given never decides.
    """
    return (
        -pod.priority,
        pod.sent_bytes,
        _LEAST_TO_CAPTURE.index(pod.state),
        pod.image_bytes,
        pod.name,
        pod.is_for_store,
        pod.obstacle or ("", ""),
    )


def _seconds(end: int) -> float:
    return math.inf if end >= NEVER else end * SAFETY / TICKS_PER_SECOND
