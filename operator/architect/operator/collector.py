"""Removes from the object store what :mod:`architect.operator.stored` decided.

A failure is said and left to the next look: nothing here is the last chance.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from architect.checkpoint import envelope
from architect.core.errors import ArchitectError
from architect.kube import checkpoints
from architect.kube.api import Api
from architect.kube.resources import CHECKPOINTS, PERSISTENT_CHECKPOINTS
from architect.objectstore.control import Listed, Undeleted
from architect.operator import metrics, stored
from architect.operator.metrics import Metrics
from architect.operator.stored import Place, Remove

log = logging.getLogger(__name__)

JsonObject = dict[str, Any]

LOOK_SECONDS: Final = 300.0
"""Between two looks at all that lies in the store: one request for a thousand objects."""


class Bucket(Protocol):
    """The store: see :class:`architect.objectstore.control.Control`."""

    def list(self, prefix: str) -> Iterator[Listed]:
        """Yield what lies below *prefix*."""

    def delete(self, keys: Iterable[str]) -> tuple[Undeleted, ...]:
        """Remove objects; return those that stay."""


class Collector:
    """Of one bucket. Safe to use from several threads; the store is opened when it is needed."""

    def __init__(
        self,
        api: Api,
        numbers: Metrics,
        *,
        open_bucket: Callable[[], Bucket],
        prefix: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._metrics = numbers
        self._open_bucket = open_bucket
        self._prefix = prefix
        self._clock = clock
        self._lock = threading.Lock()
        self._bucket: Bucket | None = None
        self._looked_at = float("-inf")

    def changed(self, checkpoint: JsonObject) -> None:
        """Learn of a Checkpoint that was changed."""
        action = stored.for_checkpoint(checkpoint)
        if action is None or self._is_wanted(action.place) or not self._remove(action):
            return
        try:
            checkpoints.set_status(self._api, checkpoint, stored.removed(action.why))
        except ArchitectError as error:
            log.info("%s: %s; decided anew at its next event", action.place, error)

    def deleted(self, value: JsonObject) -> None:
        """Learn of a Checkpoint or PersistentCheckpoint that was deleted."""
        action = stored.for_deleted(value)
        if action is not None and not self._is_wanted(action.place):
            self._remove(action)

    def sweep(self) -> None:
        """Look at everything, now and then."""
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        try:
            listed = self._listed()
            known = [
                value
                for kind in (CHECKPOINTS, PERSISTENT_CHECKPOINTS)
                for value in self._api.list(kind).items
            ]
        except ArchitectError as error:
            log.warning("the object store is not looked through: %s", error)
            return
        self._looked_at = time.monotonic()
        self._metrics.set(metrics.STORED, len(listed))
        for action in stored.for_all(listed, known, now=self._clock()):
            self._remove(action)

    def _is_wanted(self, place: Place) -> bool:
        """Whether another object than the one that is over needs it, or that is not known.

        Which place is an object's own is its word: who may write one kind may not delete the other.
        """
        try:
            known = [
                value
                for kind in (CHECKPOINTS, PERSISTENT_CHECKPOINTS)
                for value in self._api.list(kind, namespace=place.namespace).items
            ]
        except ArchitectError as error:
            log.warning("what lies in the store of %s/%s stays: %s", *place, error)
            return True
        return stored.is_wanted(place, known)

    def _listed(self) -> dict[Place, datetime]:
        found: dict[Place, datetime] = {}
        below = f"{self._prefix}/" if self._prefix else ""
        for item in self._store().list(below):
            if (named := envelope.place_of(item.key, below=self._prefix)) is None:
                continue  # nobody's whom we know
            place = Place(*named)
            found[place] = max(item.modified, found.get(place, item.modified))
        return found

    def _remove(self, action: Remove) -> bool:
        """Remove one checkpoint's data, the commit first; whether it is gone."""
        place = action.place
        try:
            below = envelope.prefix_of(*place, below=self._prefix)
            commit = envelope.manifest_key(*place, below=self._prefix)
            keys = [
                item.key
                for item in self._store().list(below)
                if envelope.place_of(item.key, below=self._prefix) == place
            ]
            keys.sort(key=lambda key: key != commit)
            for left in itertools.chain(
                self._store().delete(keys[:1]), self._store().delete(keys[1:])
            ):
                raise left.error
        except ArchitectError as error:
            log.warning("what lies in the store of %s/%s stays: %s", *place, error)
            self._metrics.add(metrics.REMOVALS, result="failed")
            return False
        if keys:
            log.info("removed %d objects of %s/%s: %s", len(keys), *place, action.why)
            self._metrics.add(metrics.REMOVALS, result="done")
        return True

    def _store(self) -> Bucket:
        with self._lock:
            if self._bucket is None:
                self._bucket = self._open_bucket()
            return self._bucket
