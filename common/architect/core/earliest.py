"""How old something is that outlives the machine's run, if the wall clock may have been set."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from architect.core import clocks


class Earliest:
    """The earliest that the wall clock may mean, in Unix seconds: a jump makes nothing look older.

    Of a time that was written down, nobody knows by which clock: the one before a jump, or after
    it. This is the clock that has been the slowest in this process's life. By it an age is never
    above what has passed, and below it by a jump at most, until the process is another one.
    """

    def __init__(
        self,
        *,
        wall: Callable[[], float] = time.time,
        boot: Callable[[], float] = clocks.boot_seconds,
    ) -> None:
        self._wall, self._boot = wall, boot
        self._lock = threading.Lock()
        self._least = wall() - boot()

    def __call__(self) -> float:
        """Return it. The more often this is called, the fewer clocks are missed."""
        with self._lock:
            boot = self._boot()
            self._least = min(self._least, self._wall() - boot)
            return boot + self._least
