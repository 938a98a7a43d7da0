"""Wait for a condition, never longer than a bound."""

from __future__ import annotations

import time
from collections.abc import Callable

from lab import errors
from lab.patience import patient


def until(
    condition: Callable[[], bool],
    *,
    what: str,
    timeout_seconds: float,
    interval_seconds: float = 0.1,
    last_seen: Callable[[], str] | None = None,
) -> None:
    """Return once *condition* is true.

    Raises DeadlineExceeded, with what *last_seen* says, if it is not within *timeout_seconds*, as
    long as those are on this machine.
    """
    limit_seconds = patient(timeout_seconds)
    deadline = time.monotonic() + limit_seconds
    while not condition():
        if time.monotonic() >= deadline:
            seen = f"\n{last_seen()}" if last_seen else ""
            raise errors.DeadlineExceeded(f"{what}: not within {limit_seconds:g} s{seen}")
        time.sleep(interval_seconds)
