"""What is told of objects as events: taken at once, written by a thread of its own.

Whoever tells never waits for the API server, and an outage of it costs the oldest.
"""

from __future__ import annotations

import collections
import threading
from typing import Final

from architect.daemon import status
from architect.daemon.pods import ManagedPod
from architect.kube import resources
from architect.kube.events import Recorder
from architect.kube.resources import ObjectRef

MAX_NOTES: Final = 500
"""That wait to be written."""


class Notes:
    """The events of one daemon. Safe to use from several threads."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._waiting: collections.deque[tuple[ObjectRef, status.Note]] = collections.deque(
            maxlen=MAX_NOTES
        )
        self._has_some = threading.Event()

    def tell(self, pod: ManagedPod, note: status.Note) -> None:
        """Have *note* written as an event of *pod*."""
        self.tell_of(resources.pod(pod.namespace, pod.name, uid=pod.uid), note)

    def tell_of(self, regarding: ObjectRef, note: status.Note) -> None:
        """Have *note* written as an event of another object."""
        self._waiting.append((regarding, note))
        self._has_some.set()

    def run(self, stop: threading.Event) -> None:
        """Write them one by one, in their order, until *stop* is set and :meth:`poke` called."""
        while not stop.is_set():
            self._has_some.wait()
            self._has_some.clear()
            while self._waiting and not stop.is_set():
                regarding, note = self._waiting.popleft()
                self._recorder.record(
                    regarding,
                    reason=note.reason,
                    note=note.text,
                    action=note.action,
                    event_type=note.event_type,
                )

    def poke(self) -> None:
        """Have :meth:`run` look whether it is to stop."""
        self._has_some.set()
