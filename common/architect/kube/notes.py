"""What is told of objects as events: taken at once, written by a thread of its own.

Whoever tells never waits for the API server. Nor is anything lost by an outage of it, but the
oldest of very many, what nobody could write for :data:`TRY_SECONDS`, and what waits as the process
ends: by some of them a loss of memory is said aloud.
"""

from __future__ import annotations

import collections
import datetime
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from architect.core.errors import Retryable
from architect.kube.events import Note, Recorder
from architect.kube.resources import ObjectRef
from architect.kube.watch import Backoff

log = logging.getLogger(__name__)

Tell = Callable[[ObjectRef, Note], object]

MAX_NOTES: Final = 500
"""That wait to be written."""

TRY_SECONDS: Final = 600.0
"""How long one is tried, before those behind it that may be written have waited enough."""

FIRST_SECONDS: Final = 0.5
MAX_SECONDS: Final = 10.0
"""Between two tries."""


@dataclass(frozen=True, kw_only=True)
class _Told:
    regarding: ObjectRef
    note: Note
    at: datetime.datetime
    give_up_at: float
    """On the monotonic clock."""


class Notes:
    """The events of one process. Safe to use from several threads."""

    def __init__(self, recorder: Recorder, *, backoff: Backoff | None = None) -> None:
        self._recorder = recorder
        self._backoff = backoff or Backoff(first_seconds=FIRST_SECONDS, max_seconds=MAX_SECONDS)
        self._lock = threading.Lock()
        self._waiting: collections.deque[_Told] = collections.deque(maxlen=MAX_NOTES)
        self._has_some = threading.Event()
        self._has_none = threading.Event()
        """Nothing waits, and nothing is being written."""
        self._has_none.set()

    def tell(self, regarding: ObjectRef, note: Note) -> None:
        """Have *note* written as an event of an object."""
        told = _Told(
            regarding=regarding,
            note=note,
            at=datetime.datetime.now(tz=datetime.UTC),
            give_up_at=time.monotonic() + TRY_SECONDS,
        )
        with self._lock:
            self._waiting.append(told)
            self._has_none.clear()
        self._has_some.set()

    def run(self, stop: threading.Event) -> None:
        """Write them one by one, in their order, until *stop* is set and :meth:`poke` called."""
        while not stop.is_set():
            self._has_some.wait()
            self._has_some.clear()
            while not stop.is_set() and (told := self._next()) is not None:
                self._write(told, stop)

    def poke(self) -> None:
        """Have :meth:`run` look whether it is to stop."""
        self._has_some.set()

    def settle(self, seconds: float) -> bool:
        """Wait until all are written, and for so long at the most; return whether they are."""
        return self._has_none.wait(seconds)

    def _next(self) -> _Told | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._has_none.set()
            return None

    def _write(self, told: _Told, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self._recorder.write(told.regarding, told.note, now=told.at)
            except Retryable as error:
                if time.monotonic() > told.give_up_at:
                    log.warning(
                        "event %s of %s is lost: %s", told.note.reason, told.regarding, error
                    )
                    return
                delay = self._backoff.next()
                log.debug("event %s waits %.1f s: %s", told.note.reason, delay, error)
                stop.wait(delay)
            else:
                self._backoff.reset()
                return
