"""Writes what the node's object is to say, beside all else: nothing waits for it."""

from __future__ import annotations

import logging
import threading
from typing import Final

from architect.core.errors import ArchitectError, Retryable
from architect.core.interruption import Interruption
from architect.daemon.evacuation import marks
from architect.kube.api import Api
from architect.kube.errors import Conflict
from architect.kube.resources import NODES, ObjectRef
from architect.kube.watch import Backoff

log = logging.getLogger(__name__)

FIRST_SECONDS: Final = 0.5
MAX_SECONDS: Final = 5.0
"""Between two attempts."""


class Marking:
    """Of one node. :meth:`run` belongs to one thread, the rest is safe from any."""

    def __init__(self, api: Api, *, node: str) -> None:
        self._api = api
        self._where = ObjectRef(resource=NODES, name=node)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._wanted: Interruption | None = None
        self._has_wish = False

    def want(self, said: Interruption | None) -> None:
        """Have the node say this; None: nothing any more. Returns at once."""
        with self._lock:
            if self._has_wish and said == self._wanted:
                return
            self._wanted, self._has_wish = said, True
        self._wake.set()

    def was_marked(self) -> bool | None:
        """Return whether the node says it now; None: nobody tells."""
        try:
            node = self._api.find(self._where)
        except ArchitectError as error:
            log.warning("whether %s is marked is not known: %s", self._where, error)
            return None
        return node is not None and marks.is_marked(node)

    def run(self, stop: threading.Event) -> None:
        """Write what is wanted until *stop*; :meth:`close` after setting it."""
        backoff = Backoff(first_seconds=FIRST_SECONDS, max_seconds=MAX_SECONDS)
        while not stop.is_set():
            self._wake.wait()
            self._wake.clear()
            if stop.is_set():
                return
            try:
                self._write()
                backoff.reset()
            except (Retryable, Conflict) as error:
                log.warning("%s does not say yet what is announced: %s", self._where, error)
                stop.wait(backoff.next())
                self._wake.set()
            except ArchitectError as error:
                log.error("%s does not say what is announced: %s", self._where, error)

    def close(self) -> None:
        """End what :meth:`run` waits for."""
        self._wake.set()

    def _write(self) -> None:
        with self._lock:
            said, has_wish = self._wanted, self._has_wish
        node = self._api.find(self._where)
        if node is None or not has_wish:
            return
        patch = marks.unmarked(node) if said is None else marks.marked(node, said)
        if patch is not None:
            version = node["metadata"]["resourceVersion"]
            self._api.patch(self._where, patch, resource_version=version)
            log.info("%s %s", self._where, "is as before" if said is None else "is marked")
