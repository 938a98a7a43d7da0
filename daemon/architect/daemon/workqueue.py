"""Keys to be looked at, each at most once at a time, later after a failure."""

from __future__ import annotations

import heapq
import threading
import time
from typing import Final

from architect.kube.watch import Backoff

FIRST_RETRY_SECONDS: Final = 1.0
MAX_RETRY_SECONDS: Final = 300.0


class WorkQueue:
    """A set of keys, each with the time from which it is due. Any number of threads may add."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._backoffs: dict[str, Backoff] = {}
        self._is_closed = False

    def add(self, key: str, *, delay_seconds: float = 0.0) -> None:
        """Have *key* looked at; an earlier time of a key that waits already wins."""
        at = time.monotonic() + delay_seconds
        with self._condition:
            if key not in self._due or at < self._due[key]:
                self._due[key] = at
                heapq.heappush(self._heap, (at, key))
                self._condition.notify()

    def retry(self, key: str, *, at_least_seconds: float = 0.0) -> float:
        """Have *key* looked at later, each time in a row up to twice as late; returns when."""
        with self._condition:
            backoff = self._backoffs.setdefault(
                key, Backoff(first_seconds=FIRST_RETRY_SECONDS, max_seconds=MAX_RETRY_SECONDS)
            )
            delay = max(backoff.next(), at_least_seconds)
        self.add(key, delay_seconds=delay)
        return delay

    def succeeded(self, key: str) -> None:
        """Forget the failures of *key*."""
        with self._condition:
            self._backoffs.pop(key, None)

    def take(self, *, timeout_seconds: float) -> str | None:
        """Return the next due key; None if none became due in time, or after :meth:`close`."""
        deadline = time.monotonic() + timeout_seconds
        with self._condition:
            while not self._is_closed:
                now = time.monotonic()
                while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
                    heapq.heappop(self._heap)  # overtaken by an earlier time
                if self._heap and self._heap[0][0] <= now:
                    _, key = heapq.heappop(self._heap)
                    del self._due[key]
                    return key
                if now >= deadline:
                    return None
                until = min([deadline, *(at for at, _ in self._heap[:1])])
                self._condition.wait(max(0.0, until - now))
        return None

    def close(self) -> None:
        """Make :meth:`take` return None at once."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
