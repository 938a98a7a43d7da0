"""How long the parts of one sleep or wake took: told with it, and what the benchmarks read."""

from __future__ import annotations

import time


class Stopwatch:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self.started = self._last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def done(self, name: str) -> None:
        """Name what has just ended."""
        now = time.monotonic()
        self.seconds[name] = round(now - self._last, 6)
        self._last = now

    @property
    def total_seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.started
