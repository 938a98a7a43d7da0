"""Whose turn it is to be frozen: a node's pods, so many at once, and each for one purpose."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple


class _Waiter(NamedTuple):
    """Somebody who wants a turn for a pod."""

    number: int
    """Who came first has the smallest."""
    uid: str


class Turns:
    """Safe to use from several threads."""

    def __init__(self, at_once: int) -> None:
        self._most = at_once
        self._at_once = at_once
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._waiting: list[_Waiter] = []
        self._held: set[str] = set()
        self._ranks: dict[str, int] = {}

    @property
    def are_wanted(self) -> bool:
        """Whether a pod has its turn, or waits for it."""
        return bool(self._held or self._waiting)

    @property
    def waiting(self) -> int:
        """How many wait for a turn."""
        return len(self._waiting)

    def unless_held(self, uid: str, action: Callable[[], None]) -> bool:
        """Call *action*, which is short, if pod *uid* does not have its turn now; whether so.

        Before it gets one, whoever wants it is asked again.
        """
        with self._changed:
            if uid in self._held:
                return False
            action()
            self._changed.notify_all()
            return True

    def prefer(self, order: Sequence[str], *, at_once: int | None = None) -> None:
        """From now on let the pods *order* (uids) go first, in this order, so many at once.

        All others come after them, who came first being first. An empty order ends it.
        """
        with self._changed:
            self._ranks = {uid: rank for rank, uid in enumerate(order)}
            self._at_once = min(self._most, max(1, at_once or self._most))
            self._changed.notify_all()

    def look_again(self) -> None:
        """Have all who wait ask whether they still want their turn."""
        with self._changed:
            self._changed.notify_all()

    @contextlib.contextmanager
    def of(self, uid: str, *, is_wanted: Callable[[], bool] = lambda: True) -> Iterator[bool]:
        """Wait for the turn of pod *uid*, which lasts as long as the block; True: this is it.

        False: *is_wanted*, which is asked after each :meth:`look_again`, said no before. A pod that
        leaves while it is copied is saved once the copy is made, and the other way round; what is
        known of it from before may not hold any more.
        """
        with self._changed:
            waiter = _Waiter(next(self._numbers), uid)
            self._waiting.append(waiter)
            try:
                self._changed.wait_for(lambda: not is_wanted() or self._is_next(waiter))
                has_turn = is_wanted()
                if has_turn:
                    self._held.add(uid)
            finally:
                self._waiting.remove(waiter)
                self._changed.notify_all()  # there may be room for the next one, too
        if not has_turn:
            yield False
            return
        try:
            yield True
        finally:
            with self._changed:
                self._held.remove(uid)
                self._changed.notify_all()

    def _is_next(self, waiter: _Waiter) -> bool:
        if len(self._held) >= self._at_once or waiter.uid in self._held:
            return False
        able = (other for other in self._waiting if other.uid not in self._held)
        return min(able, key=self._key) == waiter

    def _key(self, waiter: _Waiter) -> tuple[int, int]:
        return self._ranks.get(waiter.uid, len(self._ranks)), waiter.number
