"""Pods that leave this node: saved for their successors, before they get any signal.

The runtime asks when an engine is about to signal a container, and the watch tells of a pod that is
being deleted; whichever comes first starts the one job of that pod, and both learn its outcome. Of
a pod that nobody deletes the node is asked whether it shuts down: then kubelet ends it for good.
Until the job has made the pod's end final (``depart``) every failure undoes it: the pod is woken
and gets its signal, as if nobody had tried.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from architect.api import names
from architect.api.policy import Migrate, Storage
from architect.checkpoint.manifest import Manifest
from architect.core import identity, volumes
from architect.core.errors import ArchitectError, Rejected, Retryable
from architect.core.identity import Identity
from architect.core.wire import text
from architect.daemon import status, succession
from architect.daemon.keeper_link import KeeperLink
from architect.daemon.metrics import Metrics
from architect.daemon.moves import objects, views
from architect.daemon.moves.captures import Captures
from architect.daemon.moves.depot import Depot
from architect.daemon.moves.turns import Turns
from architect.daemon.moves.views import Family
from architect.daemon.patience import patiently
from architect.daemon.pods import ManagedPod
from architect.daemon.pods import read as read_pod
from architect.daemon.shared import SharedReads
from architect.daemon.succession import Leaving, Succession
from architect.kube import checkpoints, conditions, resources
from architect.kube.api import Api, JsonObject
from architect.kube.checkpoints import CheckpointSpec, Trigger
from architect.kube.errors import AlreadyExists, NotFound
from architect.kube.events import EventType
from architect.kube.resources import PERSISTENT_VOLUME_CLAIMS, ObjectRef

log = logging.getLogger(__name__)

PUBLISH_SECONDS: Final = 60.0
"""How long an API server that is away is tried, before upkeep tries again."""
PUBLISH_STEP_SECONDS: Final = 0.5
API_SECONDS: Final = 10.0
"""How long an API server that is away is waited for before anything is done; kubelet's grace
period begins after that."""
API_STEP_SECONDS: Final = 0.2
PUBLISHERS: Final = 4
MAX_JOBS: Final = 256
"""At once: kubelet's limit is 110 pods a node. What may not be done at once, waits in its job."""
SETTLE_SECONDS: Final = 2.0
SETTLE_STEP_SECONDS: Final = 0.1
"""Controllers update their status within a second."""

STAY_SECONDS: Final = 15.0
"""A successor that is not there by then has trouble of its own."""
STAY_MARGIN_SECONDS: Final = 2.0
"""Of the pod's grace period, after which kubelet kills."""
STAY_STEP_SECONDS: Final = 0.25
FOLLOW_SECONDS: Final = 1.5
"""For readiness, endpoints and kube-proxy to follow: it writes its rules once a second."""

T = TypeVar("T")
Tell = Callable[[ManagedPod, status.Note], None]


@dataclass(frozen=True, kw_only=True)
class Stay:
    """A saved pod whose containers stay while its successor begins.

    Who still has its address is refused at once, as by a closed port; with the pod the address
    goes, and who asks then waits for a time-out.
    """

    checkpoint: ObjectRef
    family: Family
    ends_at: float
    """By the monotonic clock: before kubelet loses its patience."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a pod that leaves."""

    is_captured: bool
    reason: str
    message: str = ""
    is_final: bool = True
    """False: nothing says yet that the pod leaves for good, and then this may be another."""
    stays: Stay | None = None
    """Why its containers are not ended at once."""


class Departures:
    """One job per pod that leaves."""

    def __init__(
        self,
        api: Api,
        *,
        node: str,
        keeper: KeeperLink,
        captures: Captures,
        turns: Turns,
        depot: Depot,
        metrics: Metrics,
        tell: Tell,
        hand_on: Callable[[ObjectRef], bool],
        is_shutting_down: Callable[[], bool],
        store: Callable[[str], None] | None,
        default_storage: Storage,
    ) -> None:
        """Prepare; *is_shutting_down* tells whether kubelet ends the node's pods just now.

        *store* begins to upload a saved pod; None: there is no object store.
        """
        self._api = api
        self._node = node
        self._keeper = keeper
        self._depot = depot
        self._captures = captures
        self._turns = turns
        self._metrics = metrics
        self._tell = tell
        self._hand_on = hand_on
        self._is_shutting_down = is_shutting_down
        self._store = store
        self._default_storage = default_storage
        self._looks = SharedReads[tuple[JsonObject | None, list[JsonObject]]](
            apart_seconds=SETTLE_STEP_SECONDS
        )
        self._stays = SharedReads[list[JsonObject]](apart_seconds=STAY_STEP_SECONDS)
        self._lock = threading.Lock()
        self._jobs: dict[str, Future[Outcome]] = {}
        # Every pod has its Checkpoint at once, though its turn may come late: its successor looks
        # for the object within seconds, and waits for the capture much longer.
        self._pool = ThreadPoolExecutor(max_workers=MAX_JOBS, thread_name_prefix="departure")
        # Apart: an API server that is away must not keep pods from being saved.
        self._publishers = ThreadPoolExecutor(PUBLISHERS, "publish")

    def close(self) -> None:
        """Begin nothing more; what is under way goes on until the process ends."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._publishers.shutdown(wait=False, cancel_futures=True)

    def leaving(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Answer the runtime: is the pod saved? Waits for the end of the job. Raises Rejected."""
        ref = resources.pod(
            text(arguments, "namespace"), text(arguments, "pod_name"), uid=text(arguments, "pod")
        )
        outcome = self._job(ref).result()
        if outcome.stays is not None:
            self._linger(outcome.stays)
        return {
            "captured": outcome.is_captured,
            "reason": outcome.reason,
            "message": outcome.message,
        }

    def notice(self, pod: ManagedPod) -> None:
        """Learn that a pod is being deleted: it is saved before its containers are ended."""
        if pod.policy.migrate is not Migrate.NEVER:
            self._job(resources.pod(pod.namespace, pod.name, uid=pod.uid))

    def forget(self, uid: str) -> None:
        """Let go of the outcome of a pod that is gone; a job under way goes on, and stays one."""
        with self._lock:
            if uid in self._jobs and self._jobs[uid].done():
                del self._jobs[uid]

    def forget_all_but(self, uids: Collection[str]) -> None:
        """Let go of the outcomes of all pods that are not among *uids*."""
        with self._lock:
            known = list(self._jobs)
        for uid in known:
            if uid not in uids:
                self.forget(uid)

    @property
    def are_working(self) -> bool:
        """Whether a job of any pod is under way."""
        with self._lock:
            return any(not job.done() for job in self._jobs.values())

    def is_working(self, uid: str) -> bool:
        """Whether a job of pod *uid* is under way."""
        with self._lock:
            return self._is_working(uid)

    def unless_working(self, uid: str, action: Callable[[], None]) -> None:
        """Call *action*, which is short, if no job of pod *uid* is under way; none begins then."""
        with self._lock:
            if not self._is_working(uid):
                action()

    def _is_working(self, uid: str) -> bool:
        job = self._jobs.get(uid)
        return job is not None and not job.done()

    def _job(self, ref: ObjectRef) -> Future[Outcome]:
        with self._lock:
            job = self._jobs.get(ref.uid)
            if job is None or (job.done() and not job.result().is_final):
                try:
                    job = self._pool.submit(self._run, ref)
                except RuntimeError as error:
                    raise Rejected("the daemon is ending", reason="Ending") from error
                self._jobs[ref.uid] = job
            return job

    def _run(self, ref: ObjectRef) -> Outcome:
        try:
            return self._depart(ref)
        except (ArchitectError, OSError) as error:
            reason = getattr(error, "reason", "") or type(error).__name__
            self._metrics.failures.labels("capture", reason).inc()
            log.error("%s is not saved: %s", ref, error)
            is_final = not isinstance(error, Retryable)
            return Outcome(is_captured=False, reason=reason, message=str(error), is_final=is_final)
        except Exception as error:
            # It would come out where others ask for this pod, and end the daemon for all of them.
            self._metrics.failures.labels("capture", "Defect").inc()
            log.exception("%s is not saved", ref)
            return Outcome(is_captured=False, reason="Defect", message=repr(error))

    def _depart(self, ref: ObjectRef) -> Outcome:
        started = time.monotonic()
        value = _asked(lambda: self._api.find(ref))
        if value is None:
            return Outcome(is_captured=False, reason="PodGone")
        pod = read_pod(value)
        if pod is None:
            return Outcome(is_captured=False, reason="Unmanaged")
        if not pod.is_terminating and (pod.is_terminal or not _asked(self._is_shutting_down)):
            return Outcome(is_captured=False, reason="Stays", is_final=False)
        if self._depot.runs_again(ref.uid):
            text = "it was saved before its node ended, and has run again since"
            return Outcome(is_captured=False, reason="RunsAgain", message=text)
        if self._depot.departure(ref.uid) is not None or self._depot.has_left(ref.uid):
            # By an earlier daemon; upkeep sees to what it left undone.
            return Outcome(is_captured=True, reason="Captured")
        if self._hand_on(ref) or not self._has_begun(value):
            log.info("%s leaves before it has begun", ref)
            return Outcome(
                is_captured=False,
                reason="NotBegun",
                message="it has not begun yet",
                is_final=pod.is_terminating,
            )
        who = identity.identity_of(value)
        if pod.is_terminating:
            trigger = succession.trigger_of(value)
        else:
            trigger = Trigger.NODE_SHUTDOWN
            value = succession.shut_down(value)
        expected = _asked(lambda: self._judge(value, pod, who, trigger))
        if not expected.is_expected:
            log.info("%s gets its signal: %s: %s", ref, expected.reason, expected.message)
            return Outcome(
                is_captured=False,
                reason=expected.reason,
                message=expected.message,
                is_final=pod.is_terminating,
            )
        assert who is not None  # nobody without an owner has a successor
        storage = self._storage_of(pod)
        spec = CheckpointSpec(
            pod=ref,
            trigger=trigger,
            template_hash=who.template_hash,
            template_parts=identity.parts(value),
            containers=pod.managed,
            owner=objects.owner_of(who),
            storage=storage,
        )
        checkpoint = _asked(lambda: self._announce(spec))
        try:
            with self._turns.of(ref.uid):
                manifest = self._captures.save(pod, value, who, trigger=trigger)
        except (ArchitectError, OSError) as error:
            if self._depot.has_left(ref.uid):
                # The keeper let it go, and only its answer is lost. All of it lies there: upkeep
                # gives it its name and publishes it, as after an earlier daemon.
                log.warning("%s has left, whatever was heard of that: %s", ref, error)
                return Outcome(is_captured=True, reason="Captured")
            self._give_up(pod, checkpoint, error)
            raise
        # It has left, and nothing undoes that. What fails from here on is done by upkeep.
        self._depot.finish_departure(ref.uid)
        if self._store is not None and storage is Storage.OBJECT_STORE:
            self._store(ref.uid)
        took = time.monotonic() - started
        said = objects.captured(self._node, storage, has_store=self._store is not None)
        with contextlib.suppress(RuntimeError):  # the daemon is ending: the next one publishes
            self._publishers.submit(self._publish, checkpoint, manifest, said, took)
        self._tell(pod, _captured_note(took, manifest.total_bytes, trigger))
        stays = None
        # Else the successor waits for the end of this pod: its ordinal, its volume, or its failure.
        is_followed = pod.is_terminating and who.ordinal is None
        if is_followed and not volumes.travelling(value, pod.managed):
            grace = float(value["metadata"].get("deletionGracePeriodSeconds") or 0)
            stays = Stay(
                checkpoint=checkpoint,
                family=Family.of(value, who.owner),
                ends_at=started + min(STAY_SECONDS, grace - STAY_MARGIN_SECONDS),
            )
        return Outcome(is_captured=True, reason="Captured", stays=stays)

    def _storage_of(self, pod: ManagedPod) -> Storage:
        """Return where the pod may lie: as it says, or as is usual in this cluster."""
        usual = Storage.NODE if self._store is None else self._default_storage
        return pod.policy.storage or usual

    def _has_begun(self, value: JsonObject) -> bool:
        """Whether anything of the pod has run: of one that has not there is nothing to save.

        Its Checkpoint would only hide that of the pod before it.
        """
        names = [container["name"] for container in value["spec"]["containers"]]
        if views.has_run(value, containers=names):
            return True
        try:
            self._keeper.status(value["metadata"]["uid"])
        except Rejected:
            return False
        except Retryable:
            return True  # what is not known is tried
        return True

    def _linger(self, stay: Stay) -> None:
        """Return once the successor runs and kube-proxy has heard of it, or time is up."""
        while time.monotonic() < stay.ends_at:
            try:
                listed = self._stays.read(stay.family, lambda: stay.family.checkpoints(self._api))
            except ArchitectError:
                return
            found = next((v for v in listed if v["metadata"]["uid"] == stay.checkpoint.uid), None)
            if found is None:
                return
            if conditions.is_true(found, checkpoints.RESTORED):
                left = stay.ends_at - time.monotonic()
                time.sleep(max(0.0, min(FOLLOW_SECONDS, left)))
                return
            time.sleep(STAY_STEP_SECONDS)

    def _judge(
        self, value: JsonObject, pod: ManagedPod, who: Identity | None, trigger: Trigger
    ) -> Succession:
        """Ask whether a successor will come that finds the pod's data."""
        found = self._judge_owner(value, pod, who, trigger)
        claims = {mount.claim for mount in volumes.travelling(value, pod.managed)}
        if not found.is_expected or not claims:
            return found
        places = {
            name: ObjectRef(resource=PERSISTENT_VOLUME_CLAIMS, namespace=pod.namespace, name=name)
            for name in claims
        }
        read = {name: self._api.find(place) for name, place in places.items()}
        return succession.refused_by_claims(read) or found

    def _judge_owner(
        self, value: JsonObject, pod: ManagedPod, who: Identity | None, trigger: Trigger
    ) -> Succession:
        """Ask whether a successor will come, again while the owner's status is being updated."""
        family = None if who is None else Family.of(value, who.owner)
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            owner, pods = None, list[JsonObject]()
            if family is not None:
                owner, pods = self._looks.read(family, lambda: self._look(family))
            leaving = Leaving(pod=value, owner=owner, pods=pods)
            found = succession.judge(
                leaving, managed=pod.managed, migrate=pod.policy.migrate, trigger=trigger
            )
            if found.is_settled or time.monotonic() > deadline:
                return found
            time.sleep(SETTLE_STEP_SECONDS)

    def _look(self, family: Family) -> tuple[JsonObject | None, list[JsonObject]]:
        return family.owner_object(self._api), family.pods(self._api)

    def _announce(self, spec: CheckpointSpec) -> ObjectRef:
        """Create the object before anything is done: the successor looks for it.

        Raises Rejected if an earlier daemon brought it to an end already.
        """
        where = checkpoints.ref_of(spec.pod, trigger=spec.trigger)
        try:
            value = self._api.create(where, checkpoints.build(spec))
        except AlreadyExists:
            value = self._api.get(where.resource, where.name, namespace=where.namespace)
            if conditions.is_decided(value, checkpoints.CAPTURED):
                raise Rejected(f"{where} has an outcome already", reason="AlreadyDecided") from None
        # With its location: if this daemon ends, the next one finds what it left unfinished.
        fields = objects.location(self._node, spec.pod.uid)
        value = checkpoints.set_status(
            self._api, value, *objects.capturing(self._node), fields=fields
        )
        return ObjectRef.of(resources.CHECKPOINTS, value)

    def _give_up(
        self, pod: ManagedPod, checkpoint: ObjectRef, error: ArchitectError | OSError
    ) -> None:
        """Have the pod awake again, so that its signal reaches it, and say why."""
        self._captures.undo(pod)
        self._tell(
            pod,
            status.Note(
                reason=names.EVENT_CAPTURE_FAILED,
                text=f"not saved, its successor starts fresh: {error}",
                action="Capture",
                event_type=EventType.WARNING,
            ),
        )
        reason = getattr(error, "reason", "") or type(error).__name__
        # If nobody hears it now, upkeep finds a capture that nobody is at.
        with contextlib.suppress(ArchitectError):
            objects.change(self._api, checkpoint, objects.not_captured(reason, str(error)))

    def _publish(
        self, checkpoint: ObjectRef, manifest: Manifest, said: objects.Said, took: float
    ) -> None:
        """Say that the pod can be restored, as soon as the API server listens."""
        fields = checkpoints.captured_status(objects.capture_of(manifest, seconds=took))
        try:
            found = patiently(
                lambda: objects.change(self._api, checkpoint, said, fields=fields),
                seconds=PUBLISH_SECONDS,
                step_seconds=PUBLISH_STEP_SECONDS,
                again=(Retryable, NotFound),
            )
        except ArchitectError as error:
            log.error("%s is saved, and nobody knows yet: %s", checkpoint, error)
            return
        if found is None:
            log.warning("%s was deleted; what it stands for goes, too", checkpoint)


def _asked(ask: Callable[[], T]) -> T:
    """Return what *ask* returns, also while the API is away for a moment. Raises what it raises."""
    return patiently(ask, seconds=API_SECONDS, step_seconds=API_STEP_SECONDS)


def _captured_note(took: float, image_bytes: int, trigger: Trigger) -> status.Note:
    text = (
        f"saved in {took:.2f} s, {image_bytes / 2**20:.1f} MiB, for the pod that replaces it "
        f"({trigger.value})"
    )
    return status.Note(reason=names.EVENT_CAPTURED, text=text, action="Capture")
