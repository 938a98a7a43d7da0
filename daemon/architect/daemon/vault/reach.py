"""Whether the object store answers, known before anybody has to wait for it.

Asked now and then on machines that may be taken back, and every other second while one is: pods
whose store is away are not captured yet, since somebody may still want to end them in order.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from architect.core.errors import ArchitectError, Retryable

log = logging.getLogger(__name__)

IDLE_SECONDS: Final = 60.0
HURRIED_SECONDS: Final = 2.0
"""Between two questions."""

FAILURES: Final = 2
"""In a row, of which one alone is a lost packet."""


class Reach:
    """Of one store. :meth:`run` belongs to one thread, the rest is safe from any."""

    def __init__(
        self,
        ask: Callable[[], None],
        *,
        is_wanted: Callable[[], bool],
        idle_seconds: float = IDLE_SECONDS,
        hurried_seconds: float = HURRIED_SECONDS,
    ) -> None:
        """Prepare; *ask* asks the store for something small, and *is_wanted* is asked before.

        Nothing is opened, and nobody asked, on machines where it means nothing.
        """
        self._ask = ask
        self._is_wanted = is_wanted
        self._idle_seconds = idle_seconds
        self._hurried_seconds = hurried_seconds
        self._failures = 0
        self._is_hurried = False
        self._wake = threading.Event()

    @property
    def is_there(self) -> bool:
        """Whether it answered last time, or was never asked."""
        return self._failures < FAILURES

    def hurry(self, is_needed: bool) -> None:
        """Ask often, or not any more."""
        self._is_hurried = is_needed
        self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Ask until *stop*; :meth:`close` after setting it."""
        while not stop.is_set():
            self._wake.clear()
            if self._is_wanted():
                self._look()
            is_often = self._is_hurried or self._failures > 0
            self._wake.wait(self._hurried_seconds if is_often else self._idle_seconds)

    def close(self) -> None:
        """End what :meth:`run` waits for."""
        self._wake.set()

    def _look(self) -> None:
        was_there = self.is_there
        try:
            self._ask()
        except Retryable as error:
            self._failures += 1
            if was_there and not self.is_there:
                log.warning("the object store does not answer: %s", error)
            return
        except ArchitectError:
            pass  # it is there; what it refuses is told by whoever needs it
        self._failures = 0
        if not was_there:
            log.info("the object store answers again")
