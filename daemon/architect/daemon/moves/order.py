"""Who is next where a few at once can be served: no threads, no time (pure).

Each waits for a turn, which is a pod's, and only one for each pod at a time. Those who are
preferred go first, in the order given; all others after them, who came first being first.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple


class Waiter(NamedTuple):
    """Somebody who wants a turn for a pod."""

    number: int
    """Who came first has the smallest."""
    uid: str


class Order:
    """Of at most *most* turns at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._at_once = most
        self._numbers = itertools.count()
        self._ranks: dict[str, int] = {}
        self.waiting: list[Waiter] = []
        self.held: set[str] = set()
        """Pods that have their turn."""

    def prefer(self, order: Sequence[str], *, at_once: int | None = None) -> None:
        """Let the pods *order* (uids) go first from now on, so many at once; empty ends it."""
        self._ranks = {uid: rank for rank, uid in enumerate(order)}
        self._at_once = min(self._most, max(1, at_once or self._most))

    def come(self, uid: str) -> Waiter:
        """Wait for a turn of pod *uid*."""
        waiter = Waiter(next(self._numbers), uid)
        self.waiting.append(waiter)
        return waiter

    def is_next(self, waiter: Waiter) -> bool:
        """Whether it is the turn of *waiter*."""
        if len(self.held) >= self._at_once or waiter.uid in self.held:
            return False
        able = (other for other in self.waiting if other.uid not in self.held)
        return min(able, key=self._key) == waiter

    def leave(self, waiter: Waiter, *, has_turn: bool) -> None:
        """Wait no more: *has_turn* until :meth:`end`, or not wanted any more."""
        self.waiting.remove(waiter)
        if has_turn:
            self.held.add(waiter.uid)

    def end(self, uid: str) -> None:
        """End the turn of pod *uid*."""
        self.held.remove(uid)

    def _key(self, waiter: Waiter) -> tuple[int, int]:
        return self._ranks.get(waiter.uid, len(self._ranks)), waiter.number
