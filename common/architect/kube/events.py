"""Events (events.k8s.io/v1): what ``kubectl describe`` shows.

An event that repeats (same object, reason and note) is counted in the one that is there instead of
written again, as client-go does; it is forgotten after :data:`WINDOW_SECONDS` without a repetition.
Recording never raises: no decision of ours may hang on an event.
"""

from __future__ import annotations

import collections
import datetime
import enum
import hashlib
import logging
import threading
from dataclasses import dataclass, replace
from typing import Any, Final

from architect.core.errors import Rejected, Retryable
from architect.kube.api import Api
from architect.kube.conditions import micro_timestamp
from architect.kube.errors import AlreadyExists, NotFound
from architect.kube.resources import EVENTS, ObjectRef

log = logging.getLogger(__name__)

MAX_NOTE_CHARS: Final = 1024
"""The API server's bound (pkg/apis/core/validation/events.go); a longer note is refused."""

WINDOW_SECONDS: Final = 360.0
"""client-go ends a series after 6 minutes without a repetition."""

MAX_REMEMBERED: Final = 4096
"""About 1 MB; an older event starts a new series."""

DEFAULT_NAMESPACE: Final = "default"
"""Where events about objects without a namespace go."""


class EventType(enum.Enum):
    """What kubectl prints in the first column."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, kw_only=True)
class Note:
    """One event to be recorded."""

    reason: str
    text: str
    action: str
    """What was being done, a CamelCase word."""
    event_type: EventType = EventType.NORMAL
    is_once: bool = False
    """It is written once per object, reason and text for as long as the API server keeps events (an
    hour by default), across restarts of ours."""


@dataclass(frozen=True, kw_only=True)
class _Series:
    ref: ObjectRef
    count: int
    last: datetime.datetime


class Recorder:
    """Writes events as *component* (``architect-daemon``) on *instance* (the node's or pod's name).

    Safe to use from several threads.
    """

    def __init__(self, api: Api, *, component: str, instance: str) -> None:
        self._api = api
        self._component = component
        self._instance = instance
        self._lock = threading.Lock()
        self._series: collections.OrderedDict[str, _Series] = collections.OrderedDict()

    def record(
        self, regarding: ObjectRef, note: Note, *, now: datetime.datetime | None = None
    ) -> bool:
        """Write an event and return whether it, or a count of it, is stored."""
        try:
            return self.write(regarding, note, now=now)
        except Retryable as error:
            log.warning("event %s on %s is lost: %s", note.reason, regarding, error)
            return False

    def write(
        self, regarding: ObjectRef, note: Note, *, now: datetime.datetime | None = None
    ) -> bool:
        """As :meth:`record`, for who can wait. Raises Retryable: with the same *now* it may be
        called again, and is one event though the first one was stored.
        """
        at = now or datetime.datetime.now(tz=datetime.UTC)
        value = build(regarding, note, component=self._component, instance=self._instance, at=at)
        key = _digest(regarding, note.reason, value["note"], note.event_type.value)
        try:
            with self._lock:
                if not note.is_once and self._count(key, at=at):
                    return True
                self._create(key, value, at=at)
        except AlreadyExists:
            return True
        except Rejected as error:
            log.warning("event %s on %s is lost: %s", note.reason, regarding, error)
            return False
        return True

    def _count(self, key: str, *, at: datetime.datetime) -> bool:
        """Count one more of a series; False if there is none."""
        series = self._series.get(key)
        if series is None or (at - series.last).total_seconds() > WINDOW_SECONDS:
            return False
        series = replace(series, count=series.count + 1, last=at)
        body = {"series": {"count": series.count, "lastObservedTime": micro_timestamp(at)}}
        try:
            self._api.patch(series.ref, body)
        except NotFound:  # expired, or its namespace is on its way out
            del self._series[key]
            return False
        self._remember(key, series)
        return True

    def _create(self, key: str, value: dict[str, Any], *, at: datetime.datetime) -> None:
        metadata = value["metadata"]
        ref = ObjectRef(resource=EVENTS, namespace=metadata["namespace"], name=metadata["name"])
        self._api.create(ref, value)
        self._remember(key, _Series(ref=ref, count=1, last=at))

    def _remember(self, key: str, series: _Series) -> None:
        self._series[key] = series
        self._series.move_to_end(key)
        while len(self._series) > MAX_REMEMBERED:
            self._series.popitem(last=False)


def build(
    regarding: ObjectRef,
    note: Note,
    *,
    component: str,
    instance: str,
    at: datetime.datetime,
) -> dict[str, Any]:
    """Return the event as JSON; a long text is cut, never refused."""
    text = note.text
    if len(text) > MAX_NOTE_CHARS:
        text = text[: MAX_NOTE_CHARS - 1] + "…"
    namespace = regarding.namespace or DEFAULT_NAMESPACE
    digest = _digest(regarding, note.reason, text, note.event_type.value)
    suffix = digest if note.is_once else f"{int(at.timestamp() * 1e6):x}{digest[:4]}"
    return {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {"namespace": namespace, "name": f"{regarding.name[:200]}.{suffix}"},
        "eventTime": micro_timestamp(at),
        "type": note.event_type.value,
        "reason": note.reason,
        "action": note.action,
        "note": text,
        "regarding": regarding.to_regarding(),
        "reportingController": f"architect.dev/{component}",
        "reportingInstance": instance[:128],
    }


def _digest(regarding: ObjectRef, *words: str) -> str:
    parts = (str(regarding), regarding.uid, *words)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
