"""One read that serves all who wait for the same: twenty pods ask the API as often as one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from architect.core.errors import ArchitectError

T = TypeVar("T")

REST: Final = 3.0
"""While others wait for the same key, how many times as long as its last read took nobody reads it:
an API server that is slow because many ask it is asked less often."""
REST_SECONDS: Final = 2.0
"""The longest rest: a read that took so long was one of a server that was away."""


class SharedReads(Generic[T]):
    """Reads by key, one of each at a time, their beginnings *apart_seconds* from each other.

    Farther where they take long: see :data:`REST`.

    Who asks gets the outcome, or the error, of a read that began *after* they asked, as of one of
    their own. What is returned is others' as well, and must not be changed.
    """

    def __init__(self, *, apart_seconds: float) -> None:
        self._apart_seconds = apart_seconds
        self._lock = threading.Lock()
        self._slots: dict[Hashable, _Slot[T]] = {}

    def read(self, key: Hashable, ask: Callable[[], T]) -> T:
        """Return or raise what *ask* does, or did for another who wants *key*."""
        with self._slot(key) as (slot, before), slot.lock:
            if slot.begun == before:
                # Whoever comes while this sleeps is served as well: it has not begun.
                due = max(slot.begun_at + self._apart_seconds, slot.rested_at)
                time.sleep(max(0.0, due - time.monotonic()))
                slot.begin(ask)
            outcome = slot.latest
        return outcome.result()

    @contextmanager
    def _slot(self, key: Hashable) -> Iterator[tuple[_Slot[T], int]]:
        """Use the slot of *key*, and tell how many of its reads had begun before."""
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            slot.users += 1
            before = slot.begun
        try:
            yield slot, before
        finally:
            with self._lock:
                slot.users -= 1
                if not slot.users:
                    del self._slots[key]


class _Slot(Generic[T]):
    """The reads of one key; there as long as somebody waits for one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.begun = 0
        self.begun_at = float("-inf")
        self.rested_at = float("-inf")
        self.latest: Future[T] = Future()

    def begin(self, ask: Callable[[], T]) -> None:
        self.begun += 1
        self.begun_at = time.monotonic()
        self.latest = Future()
        try:
            self.latest.set_result(ask())
        except ArchitectError as error:
            self.latest.set_exception(error)
        finally:
            self.latest.cancel()  # after a bug, which is the asker's: nobody waits for ever
            ended_at = time.monotonic()
            rest = min(REST * (ended_at - self.begun_at), REST_SECONDS)
            self.rested_at = ended_at + rest
