"""A question whose answer may change, asked beside what is done meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

FRESH_SECONDS: Final = 2.0
"""How long "no" is believed: a saved pod of some size is on its way for longer."""


class Question:
    """Whether something is so, which stays so. Safe to use from several threads.

    Nobody who wants to know waits: the API server that is asked may be away.
    """

    def __init__(self, ask: Callable[[], bool], *, name: str, answered: Callable[[], None]) -> None:
        """Prepare; *answered* is called after each answer, and *ask* in a thread called *name*."""
        self._ask = ask
        self._name = name
        self._answered = answered
        self._lock = threading.Lock()
        self._is_asked = False
        self._answered_at: float | None = None
        self._is_yes = False

    @property
    def has_answer(self) -> bool:
        """Whether it was answered at all."""
        return self._answered_at is not None

    def begin(self) -> None:
        """Ask, unless it is being asked, or the answer was yes: that one is the last."""
        with self._lock:
            if self._is_asked or self._is_yes:
                return
            self._is_asked = True
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def is_yes(self) -> bool:
        """Whether the last answer was yes; a "no" that is old is asked for again."""
        at = self._answered_at
        if not self._is_yes and at is not None and time.monotonic() - at > FRESH_SECONDS:
            self.begin()
        return self._is_yes

    def _run(self) -> None:
        try:
            self._is_yes = self._ask()
        except Exception:
            # A defect, which would leave whoever waits for the first answer waiting.
            log.exception("%s ended", self._name)
        self._answered_at = time.monotonic()
        with self._lock:
            self._is_asked = False
        self._answered()
