"""Removes from the object store what :mod:`architect.operator.stored` decided.

A failure is said and left to the next look: nothing here is the last chance. What could not be
removed when its object was deleted is remembered, and tried again in each round: for the looks
through the store it would be nobody's, which they leave alone for an hour.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from architect.checkpoint import envelope
from architect.core.earliest import Earliest
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

MAX_LEFT: Final = 4096
"""Of those that are remembered, one for each deleted object. The others are found as nobody's."""


class Bucket(Protocol):
    """The store: see :class:`architect.objectstore.control.Control`."""

    def list(self, prefix: str) -> Iterator[Listed]:
        """Yield what lies below *prefix*."""

    def delete(self, keys: Iterable[str]) -> tuple[Undeleted, ...]:
        """Remove objects; return those that stay."""


@dataclass
class _Stored:
    """What lies in one place."""

    size: int
    modified: datetime
    """Of the latest object."""


class Collector:
    """Of one bucket. Safe to use from several threads; the store is opened when it is needed."""

    def __init__(
        self,
        api: Api,
        numbers: Metrics,
        *,
        open_bucket: Callable[[], Bucket],
        prefix: str,
        is_kept: Callable[[Place], bool] = lambda _: False,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """*is_kept* tells of places that are not nobody's, though no object is known of them."""
        self._api = api
        self._metrics = numbers
        self._is_kept = is_kept
        self._open_bucket = open_bucket
        self._prefix = prefix
        # A jump must not make look old what has just been sent.
        self._clock = clock or Earliest()
        self._lock = threading.Lock()
        self._bucket: Bucket | None = None
        self._looked_at = float("-inf")
        self._left: dict[Place, Remove] = {}

    def changed(self, checkpoint: JsonObject) -> None:
        """Learn of a Checkpoint that was changed."""
        action = stored.for_checkpoint(checkpoint)
        if action is None or self._is_wanted(action.place) is not False:
            return
        if not self._remove(action):
            return
        try:
            checkpoints.set_status(self._api, checkpoint, stored.removed(action.why))
        except ArchitectError as error:
            log.info("%s: %s; decided anew at its next event", action.place, error)

    def deleted(self, value: JsonObject) -> None:
        """Learn of a Checkpoint or PersistentCheckpoint that was deleted."""
        action = stored.for_deleted(value)
        if action is not None and not self._settle(action):
            self._remember(action)

    def sweep(self) -> None:
        """Remove what is left of deleted objects; now and then, look at everything."""
        self._try_again()
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
        self._metrics.set(metrics.STORED_BYTES, sum(one.size for one in listed.values()))
        for value in known:
            self.changed(value)
        latest = {p: one.modified for p, one in listed.items() if not self._is_kept(p)}
        for action in stored.for_all(
            latest, known, now=datetime.fromtimestamp(self._clock(), tz=UTC)
        ):
            self._remove(action)

    def _try_again(self) -> None:
        """Try those that are left, until one fails: the store may still be away."""
        with self._lock:
            left = list(self._left.values())
        for action in left:
            is_settled = self._settle(action)
            with self._lock:
                self._left.pop(action.place, None)
            if not is_settled:
                self._remember(action)  # behind the others, which it shall not keep waiting
                return
            self._tell_left()

    def _remember(self, action: Remove) -> None:
        with self._lock:
            if len(self._left) < MAX_LEFT:
                self._left[action.place] = action
        self._tell_left()

    def _tell_left(self) -> None:
        with self._lock:
            self._metrics.set(metrics.REMOVALS_LEFT, len(self._left))

    def _settle(self, action: Remove) -> bool:
        """Remove it unless somebody needs it; False: it is to be tried again."""
        is_wanted = self._is_wanted(action.place)
        return is_wanted is not None and (is_wanted or self._remove(action))

    def _is_wanted(self, place: Place) -> bool | None:
        """Whether another object than the one that is over needs it; None: that is not known.

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
            return None
        return stored.is_wanted(place, known)

    def _listed(self) -> dict[Place, _Stored]:
        found: dict[Place, _Stored] = {}
        below = f"{self._prefix}/" if self._prefix else ""
        for item in self._store().list(below):
            if (named := envelope.place_of(item.key, below=self._prefix)) is None:
                continue  # nobody's whom we know
            place = Place(*named)
            before = found.get(place)
            if before is None:
                found[place] = _Stored(size=item.size, modified=item.modified)
            else:
                before.size += item.size
                before.modified = max(before.modified, item.modified)
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
