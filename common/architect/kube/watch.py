"""Follow a kind of object: a whole list first, then each change, for as long as one listens.

The server ends each watch after a bound; it goes on from the last resourceVersion seen, which
bookmarks keep fresh while nothing happens. If that version is no longer kept (410), or the
connection fails, the objects are listed anew: a :class:`Snapshot` tells the listener to forget what
is not in it. Deletions that happened in between are found in no other way.
"""

from __future__ import annotations

import enum
import json
import logging
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from architect.core.errors import Retryable, Unavailable
from architect.kube.api import Api, JsonObject
from architect.kube.connection import Stream
from architect.kube.errors import Expired, translate
from architect.kube.resources import Resource

log = logging.getLogger(__name__)

SESSION_SECONDS: Final = 290
"""Below the 5 minutes after which load balancers drop what is silent."""

BACKOFF_MAX_SECONDS: Final = 30.0


class ChangeKind(enum.Enum):
    """What happened to an object."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One object after a change; if deleted, as it last was."""

    kind: ChangeKind
    object: JsonObject


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Every object there is; what the listener knows besides is gone."""

    objects: tuple[JsonObject, ...]


@dataclass(kw_only=True)
class Backoff:
    """Growing delays, with jitter so that many nodes do not come back at once."""

    first_seconds: float = 0.5
    max_seconds: float = BACKOFF_MAX_SECONDS
    random: random.Random = field(default_factory=random.Random)
    _next_seconds: float = 0.0

    def next(self) -> float:
        """Return how long to wait now; the next one is up to twice as long."""
        base = max(self._next_seconds, self.first_seconds)
        self._next_seconds = min(base * 2, self.max_seconds)
        return base * self.random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start over, after a success."""
        self._next_seconds = 0.0


class Watcher:
    """Iterate over it in one thread; :meth:`stop` from any other ends the iteration at once.

    Retryable errors are waited out; Rejected (no permission, no such kind) is raised.
    """

    def __init__(
        self,
        api: Api,
        resource: Resource,
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        session_seconds: int = SESSION_SECONDS,
        backoff: Backoff | None = None,
    ) -> None:
        self._api = api
        self._resource = resource
        self._namespace = namespace
        self._labels = labels
        self._fields = fields
        self._session_seconds = session_seconds
        self._backoff = backoff or Backoff()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._stream: Stream | None = None

    def stop(self) -> None:
        """End the iteration, also while it waits for the server."""
        with self._lock:
            self._stopped.set()
            if self._stream is not None:
                self._stream.close()

    def __iter__(self) -> Iterator[Snapshot | Change]:
        version = ""
        while not self._stopped.is_set():
            try:
                if not version:
                    listed = self._api.list(
                        self._resource,
                        namespace=self._namespace,
                        labels=self._labels,
                        fields=self._fields,
                    )
                    version = listed.resource_version
                    yield Snapshot(objects=listed.items)
                for change, seen in self._session(version):
                    version = seen
                    if change is not None:
                        yield change
                    self._backoff.reset()
            except Expired:
                version = ""
            except Retryable as error:
                # An Unavailable leaves the version as it was: resumed, not listed anew.
                if not isinstance(error, Unavailable):
                    version = ""
                delay = max(self._backoff.next(), error.delay_seconds)
                log.warning("%s; again in %.1f s", error, delay)
                self._stopped.wait(delay)

    def _session(self, version: str) -> Iterator[tuple[Change | None, str]]:
        """Yield each change with the version to resume from; a bookmark is None."""
        stream = self._api.stream(
            self._resource,
            resource_version=version,
            namespace=self._namespace,
            labels=self._labels,
            fields=self._fields,
            seconds=self._session_seconds,
        )
        with self._lock:
            self._stream = stream
            if self._stopped.is_set():
                stream.close()
        try:
            for line in stream:
                yield parse(line, resource=self._resource)
        finally:
            with self._lock:
                self._stream = None


def parse(line: bytes, *, resource: Resource) -> tuple[Change | None, str]:
    """Return what one line of a watch says, and its resourceVersion; a bookmark is None.

    Raises Expired or Retryable for an error in the stream, Unavailable for a line that is cut.
    """
    what = f"watch {resource.plural}"
    try:
        event: Any = json.loads(line)
        kind, value = event["type"], event["object"]
        if kind == "ERROR":
            raise translate(int(value.get("code", 500)), json.dumps(value).encode(), what=what)
        version = str(value["metadata"]["resourceVersion"])
        if kind == "BOOKMARK":
            return None, version
        return Change(kind=ChangeKind(kind), object=value), version
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unavailable(f"cannot {what}: malformed event: {type(error).__name__}") from error
