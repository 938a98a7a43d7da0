"""Times that others give, as moments of this machine's monotonic clock.

An announced end is a time of the announcing service's clock, and this machine's may be wrong:
before the first synchronisation by hours. So the time that is left is taken from the service's
answer alone, the announced time less its header ``Date``, and counted on the monotonic clock from
when it was asked. ``Date`` has whole seconds, cut off, so that a deadline is up to a second early,
and the time of the answer's way more.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

DATE_SECONDS: Final = 1.0
"""How much later than ``Date`` says an answer may have been written."""


class Clock:
    """The clock of who announces, as far as it is known; before that, this machine's own."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        unix: Callable[[], float] = time.time,
    ) -> None:
        self.monotonic = monotonic
        self._unix = unix
        self._ahead: float | None = None
        """What the service's clock shows more than the monotonic one, at most."""

    def hear(self, date: str | None, *, asked_at: float) -> None:
        """Take the header ``Date`` of an answer to what was asked at that monotonic moment."""
        if date is not None and (unix := from_http_date(date)) is not None:
            self._ahead = unix + DATE_SECONDS - asked_at

    def deadline(self, unix: float) -> float:
        """Return the monotonic moment of a time of the service's clock: not later than it is."""
        ahead = self._unix() - self.monotonic() if self._ahead is None else self._ahead
        return unix - ahead

    @property
    def skew_seconds(self) -> float:
        """How far this machine's clock is ahead of the service's; 0 if that is not known."""
        if self._ahead is None:
            return 0.0
        return self._unix() - self.monotonic() - (self._ahead - DATE_SECONDS)


def from_http_date(text: str) -> float | None:
    """Return the Unix time of ``Mon, 19 Sep 2016 18:29:47 GMT``; None if it is not such a time."""
    try:
        found = email.utils.parsedate_to_datetime(text)
        # What has no zone, or -0000, comes without one.
        return None if found.tzinfo is None else found.timestamp()
    except (ValueError, TypeError, IndexError, OverflowError, AttributeError):
        return None


def from_iso(text: str) -> float | None:
    """Return the Unix time of ``2016-09-19T18:29:47Z``; None if it is not such a time."""
    if "T" not in text:
        return None
    try:
        found = datetime.fromisoformat(text)
        return None if found.tzinfo is None else found.timestamp()
    except (ValueError, OverflowError):
        return None


def to_iso(unix: float) -> str:
    """Return a Unix time for people, or what it is if it is none."""
    try:
        return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{unix:.0f}"
