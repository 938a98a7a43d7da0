"""Makes the API say what is true on the node: plans of :mod:`.resync`, carried out and repeated.

One thread, one pod at a time: a node's pods change state a few times a second at the very most. A
failure delays that pod alone; an outage of the API delays all, and loses nothing, because each plan
is made anew from what is then true.
"""

from __future__ import annotations

import datetime
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from architect.api import names
from architect.core.errors import Rejected, Retryable
from architect.daemon import activity, resize, resync, status
from architect.daemon.autoscalers import NOBODY
from architect.daemon.counting import Counting
from architect.daemon.metrics import Metrics
from architect.daemon.observation import KeeperPod
from architect.daemon.pods import ManagedPod
from architect.daemon.registry import Registry
from architect.daemon.resync import Action, PodFacts
from architect.daemon.store import PodStore
from architect.daemon.workqueue import WorkQueue
from architect.kube import checkpoints, patches, resources
from architect.kube.api import Api
from architect.kube.checkpoints import Capture, CheckpointSpec, Owner, Requirements, Trigger
from architect.kube.conditions import Condition, Status
from architect.kube.errors import AlreadyExists, Conflict, NotFound
from architect.kube.events import EventType, Note
from architect.kube.resources import CHECKPOINTS, LIMIT_RANGES, ObjectRef

log = logging.getLogger(__name__)

IDLE_SECONDS: Final = 5.0
"""How long the thread waits for work before it shows that it is alive."""

LIMITS_CACHE_SECONDS: Final = 60.0

RAISE_AGAIN_SECONDS: Final = 20.0
"""Between two attempts to give a woken pod its requests back, where the API server refuses them: a
quota that others have taken meanwhile is free again some time. Nobody tells when."""

ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
"""``uname -m`` → node label ``kubernetes.io/arch``."""

Tell = Callable[[ManagedPod, Note], None]


class Writer:
    """The only writer of pods and Checkpoint objects."""

    def __init__(
        self,
        api: Api,
        *,
        node: str,
        store: PodStore,
        registry: Registry,
        metrics: Metrics,
        counting: Counting,
        tell: Tell,
        condition_interval_seconds: float,
    ) -> None:
        self._api = api
        self._node = node
        self._store = store
        self._registry = registry
        self._metrics = metrics
        self._counting = counting
        self._tell = tell
        self._condition_interval_seconds = condition_interval_seconds
        self._queue = WorkQueue()
        self._checkpoints: set[str] | None = None
        self._without_checkpoint: set[str] = set()
        self._refused_resizes: dict[tuple[str, bool], float] = {}
        """Pod, and whether it was to lower requests → when it is tried again (monotonic clock)."""
        self._reported_resizes: dict[str, str] = {}
        self._conditions_at: dict[str, float] = {}
        self._limits: dict[str, tuple[float, resize.Bounds]] = {}
        self.alive_at = time.monotonic()

    def touch(self, uid: str) -> None:
        """Have a pod looked at soon. Any thread may call it."""
        self._queue.add(uid)

    def touch_all(self) -> None:
        """Have every pod looked at."""
        for pod in self._store.all():
            self._queue.add(pod.uid)

    def run(self, stop: threading.Event) -> None:
        """Work until *stop*."""
        while not stop.is_set():
            self.alive_at = time.monotonic()
            uid = self._queue.take(timeout_seconds=IDLE_SECONDS)
            if uid is not None:
                self.reconcile(uid)
            self.look_at_autoscalers()

    def look_at_autoscalers(self) -> None:
        """Have those pods looked at of which autoscalers make another use now, if it is time.

        Also of pods that are awake: why requests stay is told as soon as one sleeps.
        """
        if self._registry.is_known:
            for uid in self._counting.changed(filter(self._may_be_low, self._store.all())):
                self._queue.add(uid)

    def _may_be_low(self, pod: ManagedPod) -> bool:
        """Whether *pod* sleeps, or may soon, and its requests are lowered then if they may be."""
        if pod.is_terminating or pod.is_terminal or not resize.may_be_lowered(pod):
            return False
        return activity.wants_sleep(pod) or self._is_asleep(pod)

    def _is_asleep(self, pod: ManagedPod) -> bool:
        keeper = self._registry.keeper_pod(pod.uid)
        return keeper is not None and keeper.state in status.ASLEEP_STATES

    def close(self) -> None:
        """End the wait for work."""
        self._queue.close()

    def reconcile(self, uid: str) -> None:
        """Carry out what the pod's plan says; on failure it is looked at again later."""
        pod = self._store.get(uid)
        if pod is None:
            self._forget(uid)
            return
        if not self._registry.is_known:
            return  # the keeper's reconnection touches all pods
        try:
            if self._checkpoints is None:
                self._checkpoints = self._list_checkpoints()
            facts = self._facts(pod)
            for action in resync.plan(facts):
                if not self._apply(pod, action):
                    break  # what comes after it counts on it: the note of the requests would go
            if not facts.may_update_reason:
                self._queue.add(uid, delay_seconds=self._condition_interval_seconds)
            again_at = self._refused_resizes.get((uid, False))
            if again_at is not None:
                self._queue.add(uid, delay_seconds=max(0.0, again_at - time.monotonic()))
            self._report_resize(pod)
        except NotFound as error:
            # The watch tells soon what became of it.
            log.debug("%s: %s", pod.full_name, error)
        except Retryable as error:
            self._metrics.api_errors.labels(type(error).__name__).inc()
            delay = self._queue.retry(uid, at_least_seconds=error.delay_seconds)
            # That somebody else was first, as kubelet is with a status, is nobody's trouble.
            level = logging.INFO if isinstance(error, Conflict) else logging.WARNING
            log.log(level, "%s: %s; again in %.1f s", pod.full_name, error, delay)
            return
        except Rejected as error:
            self._metrics.api_errors.labels(error.reason).inc()
            delay = self._queue.retry(uid, at_least_seconds=30.0)
            log.error("%s: %s; again in %.0f s", pod.full_name, error, delay)
            return
        self._queue.succeeded(uid)

    def _forget(self, uid: str) -> None:
        self._registry.forget(uid)
        for is_lowering in (True, False):
            self._refused_resizes.pop((uid, is_lowering), None)
        self._reported_resizes.pop(uid, None)
        self._conditions_at.pop(uid, None)
        self._without_checkpoint.discard(uid)
        if self._checkpoints is not None:
            # The object belongs to the pod: the cluster's garbage collection removes it.
            self._checkpoints.discard(uid)
        self._queue.succeeded(uid)

    def _facts(self, pod: ManagedPod) -> PodFacts:
        keeper = self._registry.keeper_pod(pod.uid)
        is_asleep = keeper is not None and keeper.state in status.ASLEEP_STATES
        counted = self._counting.of(pod) if self._may_be_low(pod) else NOBODY
        # What was refused counts only as long as it is wanted.
        if not is_asleep:
            self._refused_resizes.pop((pod.uid, True), None)
        elif counted == NOBODY:
            self._refused_resizes.pop((pod.uid, False), None)
        reasons = self._registry.verdict(pod.uid)
        if reasons is None:
            reasons = tuple(activity.pod_reasons(pod))
        written = self._conditions_at.get(pod.uid)
        return PodFacts(
            pod=pod,
            keeper=keeper,
            reasons=reasons,
            has_checkpoint=pod.uid in (self._checkpoints or ())
            or (is_asleep and pod.uid in self._without_checkpoint),
            may_update_reason=written is None
            or time.monotonic() - written > self._condition_interval_seconds * 0.99,
            bounds=self._bounds(pod.namespace) if is_asleep else resize.Bounds(),
            counted=counted,
            is_lowering_refused=self._is_refused(pod, is_lowering=True),
            is_raising_refused=self._is_refused(pod, is_lowering=False),
        )

    def _is_refused(self, pod: ManagedPod, *, is_lowering: bool) -> bool:
        return time.monotonic() < self._refused_resizes.get((pod.uid, is_lowering), 0.0)

    def _apply(self, pod: ManagedPod, action: Action) -> bool:
        """Carry out *action*; False if it was refused, and the pod is looked at once more."""
        ref = resources.pod(pod.namespace, pod.name, uid=pod.uid)
        match action:
            case resync.SetMetadata():
                self._take(
                    patches.set_metadata(
                        self._api, ref, labels=action.labels, annotations=action.annotations
                    )
                )
            case resync.SetCondition():
                self._take(
                    patches.set_condition(
                        self._api, ref, existing_conditions(pod), action.condition
                    )
                )
                self._conditions_at[pod.uid] = time.monotonic()
            case resync.Resize():
                return self._resize(pod, ref, action)
            case resync.EnsureCheckpoint():
                self._ensure_checkpoint(pod, ref)
            case resync.DropCheckpoint():
                self._api.delete(checkpoints.ref_of(ref))
                if self._checkpoints is not None:
                    self._checkpoints.discard(pod.uid)
        return True

    def _take(self, value: dict[str, Any] | None) -> None:
        if value is not None:
            self._store.update(value)

    def _resize(self, pod: ManagedPod, ref: ObjectRef, action: resync.Resize) -> bool:
        """Resize, or remember and say that it is refused: the pod sleeps or runs all the same.

        Only what was decided on: a user's own resize that came in between is not to be undone by
        one that did not know it. Raises Conflict then, or has the pod looked at once more.
        """
        latest = self._store.get(pod.uid) or pod
        if _requests(latest) != _requests(pod):
            self._queue.add(pod.uid)
            return False
        version = str(latest.resource_version or "")
        try:
            self._take(patches.resize(self._api, ref, action.requests, resource_version=version))
            self._refused_resizes.pop((pod.uid, action.is_lowering), None)
        except NotFound as error:
            if self._api.find(ref) is None:
                return True
            # The API server has no such subresource (before 1.33).
            self._refuse_resize(pod, action, str(error))
            return False
        except Rejected as error:
            self._refuse_resize(pod, action, str(error))
            return False
        if not action.is_lowering and self._is_asleep(pod):
            self._tell(pod, status.of_returned_requests(pod, self._counting.known(pod.uid)))
        return True

    def _refuse_resize(self, pod: ManagedPod, action: resync.Resize, said: str) -> None:
        refused = (pod.uid, action.is_lowering)
        is_known = refused in self._refused_resizes
        # Never, for one that only would have made room.
        again_at = math.inf if action.is_lowering else time.monotonic() + RAISE_AGAIN_SECONDS
        self._refused_resizes[refused] = again_at
        # What the plan has besides is made anew.
        self._queue.add(pod.uid)
        if is_known:
            return
        self._metrics.failures.labels("resize", "Rejected").inc()
        what = "its requests stay" if action.is_lowering else "its requests stay lowered"
        note = Note(
            reason=names.EVENT_RESIZE_PENDING,
            text=f"{what}: {said}",
            action="Resize",
            event_type=EventType.WARNING,
        )
        self._tell(pod, note)

    def _report_resize(self, pod: ManagedPod) -> None:
        """Say once that an awake pod's requests are not granted: the node filled up meanwhile."""
        pending = pod.conditions.get("PodResizePending")
        is_awake = (keeper := self._registry.keeper_pod(pod.uid)) is not None and (
            keeper.state not in status.ASLEEP_STATES
        )
        if pending is None or pending.status != "True" or not is_awake:
            self._reported_resizes.pop(pod.uid, None)
            return
        if self._reported_resizes.get(pod.uid) == pending.reason:
            return
        self._reported_resizes[pod.uid] = pending.reason
        text = f"it runs, but the node does not grant its requests: {pending.reason}"
        if pending.message:
            text += f": {pending.message}"
        self._tell(
            pod,
            Note(
                reason=names.EVENT_RESIZE_PENDING,
                text=text,
                action="Resize",
                event_type=EventType.WARNING,
            ),
        )

    def _ensure_checkpoint(self, pod: ManagedPod, ref: ObjectRef) -> None:
        keeper = self._registry.keeper_pod(pod.uid)
        if keeper is None:
            return
        spec = CheckpointSpec(
            pod=ref,
            trigger=Trigger.SLEEP,
            template_hash="",
            containers=pod.managed,
            owner=_owner(pod),
        )
        where = checkpoints.ref_of(ref)
        try:
            value = self._api.create(where, checkpoints.build(spec))
        except AlreadyExists:
            value = self._api.get(CHECKPOINTS, where.name, namespace=where.namespace)
        except Rejected as error:
            if isinstance(error, NotFound) and self._api.find(ref) is None:
                raise
            # No such kind, no permission, a quota: the pod sleeps all the same.
            log.error("no Checkpoint for %s: %s", pod.full_name, error)
            self._metrics.api_errors.labels(error.reason).inc()
            self._without_checkpoint.add(pod.uid)
            return
        capture = self._capture(keeper)
        checkpoints.set_status(
            self._api,
            value,
            Condition(
                type=checkpoints.CAPTURED,
                status=Status.TRUE,
                reason="Slept",
                message=f"the pod sleeps on node {self._node}",
            ),
            Condition(
                type=checkpoints.AVAILABLE,
                status=Status.TRUE,
                reason="OnNode",
                message="the pod itself wakes from it",
            ),
            fields=checkpoints.captured_status(capture),
        )
        if self._checkpoints is not None:
            self._checkpoints.add(pod.uid)

    def _capture(self, keeper: KeeperPod) -> Capture:
        system = os.uname()
        return Capture(
            node=self._node,
            path=str(names.PODS / keeper.uid),
            image_bytes=keeper.image_bytes,
            at=datetime.datetime.fromtimestamp(keeper.since_unix, tz=datetime.UTC),
            requirements=Requirements(
                architecture=ARCHITECTURES.get(system.machine, system.machine),
                kernel=system.release,
            ),
            durations_seconds=self._registry.steps(keeper.uid),
        )

    def _list_checkpoints(self) -> set[str]:
        """Return the uids of pods that have a Checkpoint object of this node."""
        try:
            listed = self._api.list(CHECKPOINTS, is_cached=True)
        except NotFound:
            return set()  # the kind is not there yet; creating one says so
        return {
            value["spec"]["podRef"]["uid"]
            for value in listed.items
            if value["spec"]["trigger"] == Trigger.SLEEP.value
        }

    def _bounds(self, namespace: str) -> resize.Bounds:
        now = time.monotonic()
        cached = self._limits.get(namespace)
        if cached is None or now - cached[0] > LIMITS_CACHE_SECONDS:
            listed = self._api.list(LIMIT_RANGES, namespace=namespace, is_cached=True)
            cached = (now, resize.bounds_of(listed.items))
            self._limits[namespace] = cached
        return cached[1]


def existing_conditions(pod: ManagedPod) -> list[dict[str, Any]]:
    """Return the pod's conditions as the API has them, as far as a new one is compared."""
    return [
        {
            "type": name,
            "status": c.status,
            "reason": c.reason,
            "message": c.message,
            "lastTransitionTime": c.since,
        }
        for name, c in pod.conditions.items()
    ]


def _requests(pod: ManagedPod) -> dict[str, dict[str, str]]:
    return {name: dict(container.requests) for name, container in pod.containers.items()}


def _owner(pod: ManagedPod) -> Owner | None:
    if pod.owner is None:
        return None
    return Owner(
        api_version=pod.owner["apiVersion"],
        kind=pod.owner["kind"],
        name=pod.owner["name"],
        uid=pod.owner["uid"],
    )
