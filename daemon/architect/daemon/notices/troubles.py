"""What goes wrong while others are asked again and again: counted always, said when it is news."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from architect.core.errors import ArchitectError, FormatError, Rejected
from architect.daemon.metrics import Metrics

log = logging.getLogger(__name__)

REPEAT_SECONDS: Final = 3600.0
"""A trouble that stays is said again after this time; one that comes and goes is not said more
often."""


class Troubles:
    """Those of each source. Safe to use from several threads."""

    def __init__(
        self, metrics: Metrics, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._metrics = metrics
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._said_at: dict[tuple[str, str], float] = {}
        self._open: dict[str, str] = {}

    def failed(self, source: str, error: ArchitectError) -> None:
        """Take that *source* could not be heard."""
        reason = reason_of(error)
        self._metrics.notice_failures.labels(source.partition("/")[0], reason).inc()
        now = self._monotonic()
        with self._lock:
            said_at = self._said_at.get((source, reason))
            is_news = said_at is None or now - said_at >= REPEAT_SECONDS
            if is_news:
                self._said_at[source, reason] = now
                self._open[source] = reason
        if is_news:
            log.warning("notices of %s: %s: %s", source, reason, error)

    def went(self, source: str) -> None:
        """Take that it was heard."""
        with self._lock:
            reason = self._open.pop(source, None)
        if reason is not None:
            log.info("notices of %s are heard again, after %s", source, reason)


def reason_of(error: ArchitectError) -> str:
    """Return one word for it."""
    if isinstance(error, Rejected):
        return error.reason
    return "Malformed" if isinstance(error, FormatError) else type(error).__name__
