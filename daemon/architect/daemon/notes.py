"""What is told of objects as events: taken at once, written by a thread of its own.

Whoever tells never waits for the API server. Nor is anything lost by an outage of it, but the
oldest of very many, what nobody could write for :data:`TRY_SECONDS`, and what waits as the daemon
ends: by some of them a loss of memory is said aloud.
"""

from __future__ import annotations

import collections
import datetime
import logging
import threading
import time
from dataclasses import dataclass
from typing import Final

from architect.core.errors import Retryable
from architect.daemon import status
from architect.daemon.pods import ManagedPod
from architect.kube import resources
from architect.kube.events import Recorder
from architect.kube.resources import ObjectRef
from architect.kube.watch import Backoff

log = logging.getLogger(__name__)

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
    note: status.Note
    at: datetime.datetime
    give_up_at: float
    """On the monotonic clock."""


class Notes:
    """The events of one daemon. Safe to use from several threads."""

    def __init__(self, recorder: Recorder, *, backoff: Backoff | None = None) -> None:
        self._recorder = recorder
        self._backoff = backoff or Backoff(first_seconds=FIRST_SECONDS, max_seconds=MAX_SECONDS)
        self._waiting: collections.deque[_Told] = collections.deque(maxlen=MAX_NOTES)
        self._has_some = threading.Event()

    def tell(self, pod: ManagedPod, note: status.Note) -> None:
        """Have *note* written as an event of *pod*."""
        self.tell_of(resources.pod(pod.namespace, pod.name, uid=pod.uid), note)

    def tell_of(self, regarding: ObjectRef, note: status.Note) -> None:
        """Have *note* written as an event of another object."""
        told = _Told(
            regarding=regarding,
            note=note,
            at=datetime.datetime.now(tz=datetime.UTC),
            give_up_at=time.monotonic() + TRY_SECONDS,
        )
        self._waiting.append(told)
        self._has_some.set()

    def run(self, stop: threading.Event) -> None:
        """Write them one by one, in their order, until *stop* is set and :meth:`poke` called."""
        while not stop.is_set():
            self._has_some.wait()
            self._has_some.clear()
            while self._waiting and not stop.is_set():
                self._write(self._waiting.popleft(), stop)

    def poke(self) -> None:
        """Have :meth:`run` look whether it is to stop."""
        self._has_some.set()

    def _write(self, told: _Told, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self._recorder.write(
                    told.regarding,
                    reason=told.note.reason,
                    note=told.note.text,
                    action=told.note.action,
                    event_type=told.note.event_type,
                    now=told.at,
                )
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
