"""Answers those who ask for a PersistentCheckpoint, and removes those whose time is over.

What fails is said and left to the next sweep. Two replicas at work for a moment do no harm: every
write names the version that was decided on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from architect.core.errors import Rejected, Retryable
from architect.kube.api import Api
from architect.kube.resources import PERSISTENT_CHECKPOINTS, PODS, ObjectRef
from architect.operator import holdings, metrics, persistent, retention
from architect.operator.apply import Applier
from architect.operator.metrics import Metrics
from architect.operator.persistent import Query
from architect.operator.retention import Limits

log = logging.getLogger(__name__)

JsonObject = dict[str, Any]

NO_LIMITS: Final = Limits()

REMEMBERED: Final = 4096
"""Of those that wait for a pod: the others are looked at in each sweep only."""


class Registrar:
    """Safe to use from several threads.

    It remembers who waits, so that an event of a pod, which the operator sees anyway, leads to the
    one that asks for it.
    """

    def __init__(
        self,
        api: Api,
        applier: Applier,
        numbers: Metrics,
        *,
        has_store: bool,
        limits: Limits = NO_LIMITS,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._applier = applier
        self._metrics = numbers
        self._has_store = has_store
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[ObjectRef, JsonObject] = {}
        self._beyond: tuple[str, ...] = ()

    def look_at(self, value: JsonObject) -> None:
        """Decide about one, by a read of the pods in question, and carry it out."""
        self._remember(value)
        now = self._clock()
        try:
            if persistent.is_waiting(value):
                action = persistent.choose(
                    value, pods=self._pods(value), has_store=self._has_store, now=now
                )
            elif (ref := persistent.chosen_pod_of(value)) is not None:
                action = persistent.follow(value, pod=self._api.find(ref), now=now)
            else:
                action = persistent.echo(value, now=now)
        except (Rejected, Retryable) as error:
            log.warning("%s: %s", ObjectRef.of(PERSISTENT_CHECKPOINTS, value), error)
            return
        if action is not None:
            self._applier.apply(action)
        if (end := persistent.expire(value, now=now)) is not None:
            self._applier.apply(end)

    def pod_changed(self, pod: JsonObject) -> None:
        """Look at those that wait for this pod; without any, nothing is read."""
        if not persistent.is_ready(pod):
            return
        with self._lock:
            found = [r for r, value in self._waiting.items() if persistent.is_wanted(value, pod)]
        for ref in found:
            try:
                value = self._api.find(ref)
            except (Rejected, Retryable) as error:
                log.warning("%s: %s", ref, error)
                continue
            if value is None:
                self._forget(ref)
            else:
                self.look_at(value)

    def deleted(self, value: JsonObject) -> None:
        """Learn that one was deleted."""
        self._forget(ObjectRef.of(PERSISTENT_CHECKPOINTS, value))

    def sweep(self) -> None:
        """Look at all. Raises as :meth:`Api.list`."""
        values = self._api.list(PERSISTENT_CHECKPOINTS).items
        with self._lock:
            there = {ObjectRef.of(PERSISTENT_CHECKPOINTS, value) for value in values}
            self._waiting = {r: value for r, value in self._waiting.items() if r in there}
        states = [persistent.state_of(value) for value in values]
        for state in persistent.STATES:
            self._metrics.set(metrics.PERSISTENT, states.count(state), state=state)
        self._metrics.set(metrics.PERSISTENT_BYTES, retention.total_bytes(values))
        metrics.tell_held(self._metrics, values, holdings.PERSISTENT)
        for value in values:
            self.look_at(value)
        now = self._clock()
        # What goes by itself makes room, and costs no other one its place.
        staying = [value for value in values if persistent.expire(value, now=now) is None]
        found = retention.excess(staying, self._limits)
        for end in found.ends:
            self._applier.apply(end)
        self._tell_beyond(found.beyond)

    def _tell_beyond(self, beyond: tuple[str, ...]) -> None:
        """Tell who holds more than the limits say, since nothing of it may go."""
        self._metrics.set(metrics.BEYOND, len(beyond))
        if beyond != self._beyond:
            self._beyond = beyond
            log.warning(
                "more than objectStore.limits lets them keep have, as pinned or last good ones: %s",
                ", ".join(beyond) or "none any more",
            )

    def _pods(self, value: JsonObject) -> tuple[JsonObject, ...]:
        match persistent.query_of(value, has_store=self._has_store):
            case None:
                return ()
            case Query(namespace=namespace, name="", labels=labels):
                return self._api.list(PODS, namespace=namespace, labels=labels).items
            case Query(namespace=namespace, name=name):
                pod = self._api.find(ObjectRef(resource=PODS, namespace=namespace, name=name))
                return () if pod is None else (pod,)

    def _remember(self, value: JsonObject) -> None:
        ref = ObjectRef.of(PERSISTENT_CHECKPOINTS, value)
        with self._lock:
            if not self._has_store or not persistent.is_waiting(value):
                self._waiting.pop(ref, None)
            elif ref in self._waiting or len(self._waiting) < REMEMBERED:
                self._waiting[ref] = value

    def _forget(self, ref: ObjectRef) -> None:
        with self._lock:
            self._waiting.pop(ref, None)
