"""What this node was measured at, for all who measure and all who plan. Gone with the daemon."""

from __future__ import annotations

import threading

from architect.daemon.spot.inputs import Rates
from architect.daemon.spot.learning import Learnt, Measure


class Known:
    """Safe to use from several threads; neither method waits for anything."""

    def __init__(self, learnt: Learnt | None = None) -> None:
        self._lock = threading.Lock()
        self._learnt = learnt or Learnt()

    def take(self, measure: Measure, seconds: float, size_bytes: int = 0) -> None:
        """Learn that *measure* took *seconds*, of a rate for *size_bytes*.

        What cannot be, or is too small to tell a rate, changes nothing.
        """
        with self._lock:
            self._learnt = self._learnt.with_sample(measure, seconds=seconds, size_bytes=size_bytes)

    def rates(self) -> Rates:
        """Return what to plan with now."""
        with self._lock:
            learnt = self._learnt
        return learnt.rates()
