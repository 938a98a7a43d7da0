"""How long a measure may go on."""

from __future__ import annotations

import time


class Clock:
    """Time that is over some seconds after it was started."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left_seconds(self) -> float:
        """What is left, never below 0."""
        return max(0.0, self._end - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return self.left_seconds == 0.0


def milliseconds_since(started: float) -> float:
    """Return the milliseconds since *started*, a value of :func:`time.monotonic`."""
    return (time.monotonic() - started) * 1000
