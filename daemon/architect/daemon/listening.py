"""What the keeper says of its pods, and what follows from it in the daemon's own books."""

from __future__ import annotations

import collections
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from architect.api.keeper import Event, PodState
from architect.api.policy import OnRestoreFailure
from architect.core.errors import ArchitectError, FormatError, Rejected
from architect.daemon import activity, planner, status
from architect.daemon.autoscalers import Counted
from architect.daemon.keeper_link import KeeperLink
from architect.daemon.metrics import Metrics
from architect.daemon.moves.arrivals import Arrivals
from architect.daemon.moves.departures import Departures
from architect.daemon.moves.endings import Endings
from architect.daemon.pods import ManagedPod
from architect.daemon.registry import Registry
from architect.daemon.spot.learning import Measure
from architect.daemon.spot.rates import Known
from architect.daemon.store import PodStore
from architect.kube.events import Note

log = logging.getLogger(__name__)

EARLY: Final = 500
"""So much of what the keeper says is kept until it is known which pods there are."""


class Listener:
    """Takes in each event of the keeper: registry, metrics, rates, moves, and the pod's events."""

    def __init__(
        self,
        *,
        keeper: KeeperLink,
        store: PodStore,
        registry: Registry,
        metrics: Metrics,
        rates: Known,
        counted: Callable[[str], Counted],
        departures: Departures,
        arrivals: Arrivals,
        endings: Endings,
        tell: Callable[[ManagedPod, Note], None],
        is_gone: Callable[[], None],
        changed: Callable[[str | None], None],
    ) -> None:
        """Prepare.

        *counted*: what is known already of the autoscalers that count a pod. *is_gone*: a pod has
        left the keeper. *changed*: something of a pod is another now, by its uid, or of any (None).
        """
        self._keeper = keeper
        self._store = store
        self._registry = registry
        self._metrics = metrics
        self._rates = rates
        self._counted = counted
        self._departures = departures
        self._arrivals = arrivals
        self._endings = endings
        self._tell = tell
        self._is_gone = is_gone
        self._changed = changed
        self._random = random.Random()
        self._early: collections.deque[tuple[Event, str, dict[str, Any]]] = collections.deque(
            maxlen=EARLY
        )

    def follow(self, start_keeper: Callable[[], None], *, stop: threading.Event) -> None:
        """Follow the keeper through its lives until *stop* is set (:meth:`.KeeperLink.follow`)."""
        self._keeper.follow(self._said, self._is_back, start_keeper, stop=stop)

    def pods_are_known(self) -> None:
        """Say what came before the node's pods were listed."""
        while self._early:
            self._say(*self._early.popleft())

    def attempt(self, uid: str, work: Callable[[], object]) -> None:
        """Do what concerns one pod. A disk that refuses it must not end the thread of all pods."""
        try:
            work()
        except OSError as error:
            log.error("what came for pod %s: %s; upkeep looks at it again", uid, error)

    def _is_back(self) -> None:
        """Take the keeper's list after each connect: events may have been missed."""
        self._registry.set_all(self._keeper.pods())
        self._changed(None)

    def _said(self, message: dict[str, Any]) -> None:
        try:
            event = Event(message.get("event"))
        except ValueError:
            log.debug("unknown event of the keeper: %r", message.get("event"))
            return
        uid = str(message.get("pod") or "")
        self._refresh(uid)
        self._count(event, message)
        self._remember(event, uid, message)
        pod = self._store.get(uid)
        if event is Event.RESTORED:
            is_asleep = message.get("state") == PodState.ASLEEP.value
            self.attempt(uid, lambda: self._endings.restored(uid, pod=pod, is_asleep=is_asleep))
        elif event is Event.WAKE_FAILED:
            self.attempt(uid, lambda: self._wake_failed(uid, message, pod=pod))
        if pod is None and not self._store.is_synced:
            self._early.append((event, uid, message))
        else:
            self._say(event, uid, message)
        if event is Event.REMOVED:
            # After a forced deletion the API forgot the pod before its containers ended.
            self._is_gone()
        self._changed(uid)

    def _say(self, event: Event, uid: str, message: dict[str, Any]) -> None:
        """Make what the keeper said an event of the pod, if it is worth one."""
        pod = self._store.get(uid)
        if pod is None:
            return
        keeper = self._registry.keeper_pod(uid)
        note = status.note_of(
            event,
            message,
            pod=pod,
            is_refused=keeper is not None and keeper.refused is not None,
            is_leaving=self._departures.is_working(uid),
            counted=self._counted(uid),
        )
        if note is not None:
            self._tell(pod, note)

    def _wake_failed(self, uid: str, message: dict[str, Any], *, pod: ManagedPod | None) -> None:
        reason, text = str(message.get("reason")), str(message.get("message"))
        policy = message.get("policy")
        if policy == OnRestoreFailure.FRESH.value:
            self._endings.not_restored(uid, f"{reason}: {text}")
            return
        self._endings.fails(uid, f"{reason}: {text}")
        if policy == OnRestoreFailure.FAIL.value and pod is not None and pod.is_gvisor:
            # A container of others stays, hollow, until somebody looks; a sandbox does not.
            self._arrivals.hold(uid, reason=reason, message=text)

    def _refresh(self, uid: str) -> None:
        try:
            self._registry.set_one(uid, self._keeper.status(uid))
        except Rejected:
            self._registry.set_one(uid, None)
        except (ArchitectError, FormatError) as error:
            # The stream ends too, then, and the list is taken anew.
            log.warning("status of pod %s: %s", uid, error)

    def _remember(self, event: Event, uid: str, message: dict[str, Any]) -> None:
        now, took = time.monotonic(), float(message.get("duration_seconds") or 0.0)
        if event is Event.SLEPT:
            steps = message.get("steps")
            if isinstance(steps, dict):
                self._registry.set_steps(uid, {str(k): float(v) for k, v in steps.items()})
                size = int(message.get("image_bytes") or 0)
                self._rates.take(Measure.DUMP, float(steps.get("dump") or 0.0), size)
            self._registry.change_history(
                uid, lambda h: planner.slept(h, now=now, took_seconds=took)
            )
        elif event is Event.WOKE:
            pod, jitter = self._store.get(uid), self._random.random()
            idle = activity.idle_seconds(pod) if pod else 0.0
            self._registry.change_history(
                uid,
                lambda h: planner.woke(
                    h, now=now, took_seconds=took, idle_seconds=idle, jitter=jitter
                ),
            )

    def _count(self, event: Event, message: dict[str, Any]) -> None:
        took = float(message.get("duration_seconds") or 0.0)
        reason = str(message.get("reason") or "Unknown")
        if event is Event.SLEPT:
            self._metrics.sleeps.inc()
            self._metrics.sleep_seconds.observe(took)
            self._metrics.image_bytes.observe(float(message.get("image_bytes") or 0))
        elif event is Event.WOKE:
            self._metrics.wakes.labels(status.wake_kind(reason)).inc()
            self._metrics.wake_seconds.observe(took)
            self._metrics.held_packets.inc(int(message.get("held_packets") or 0))
        elif event is Event.WAKE_FAILED:
            self._metrics.failures.labels("wake", reason).inc()
        elif event is Event.WAKE_BLOCKED:
            self._metrics.failures.labels("wake", "Blocked").inc()
        elif event is Event.HOOK and message.get("status") != 0:
            self._metrics.failures.labels("hook", status.hook_failure(message)).inc()
