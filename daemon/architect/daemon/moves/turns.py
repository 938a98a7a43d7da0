"""Whose turn it is to be frozen: a node's pods, so many at once, and each for one purpose."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

from architect.daemon.moves.order import Order


class Turns:
    """Those of :class:`.Order`, waited for. Safe to use from several threads."""

    def __init__(self, at_once: int) -> None:
        self._order = Order(at_once)
        self._changed = threading.Condition()

    @property
    def are_wanted(self) -> bool:
        """Whether a pod has its turn, or waits for it."""
        return bool(self._order.held or self._order.waiting)

    @property
    def waiting(self) -> int:
        """How many wait for a turn."""
        return len(self._order.waiting)

    def unless_held(self, uid: str, action: Callable[[], None]) -> bool:
        """Call *action*, which is short, if pod *uid* does not have its turn now; whether so.

        Before it gets one, whoever wants it is asked again.
        """
        with self._changed:
            if uid in self._order.held:
                return False
            action()
            self._changed.notify_all()
            return True

    def prefer(self, order: Sequence[str], *, at_once: int | None = None) -> None:
        """From now on let the pods *order* (uids) go first, in this order, so many at once.

        All others come after them, who came first being first. An empty order ends it.
        """
        with self._changed:
            self._order.prefer(order, at_once=at_once)
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
        has_turn = False
        with self._changed:
            waiter = self._order.come(uid)
            try:
                self._changed.wait_for(lambda: not is_wanted() or self._order.is_next(waiter))
                has_turn = is_wanted()
            finally:
                self._order.leave(waiter, has_turn=has_turn)
                self._changed.notify_all()  # there may be room for the next one, too
        if not has_turn:
            yield False
            return
        try:
            yield True
        finally:
            with self._changed:
                self._order.end(uid)
                self._changed.notify_all()
