"""Pods that leave this node: saved for their successors, before they get any signal.

The runtime asks when an engine is about to signal a container, and the watch tells of a pod that is
being deleted; whichever comes first starts the one job of that pod, and both learn its outcome.
Until the job has made the pod's end final (``depart``) every failure undoes it: the pod is woken
and gets its signal, as if nobody had tried.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from architect.api import names
from architect.api.policy import Migrate
from architect.core import identity
from architect.core.errors import ArchitectError, Rejected, Retryable
from architect.core.identity import Identity
from architect.daemon import status, succession
from architect.daemon.checkpoint import contents
from architect.daemon.checkpoint.manifest import About, Container
from architect.daemon.host import Host
from architect.daemon.keeper_link import KeeperLink
from architect.daemon.metrics import Metrics
from architect.daemon.moves import views
from architect.daemon.moves.depot import Depot
from architect.daemon.moves.endpoint import text
from architect.daemon.node_facts import NodeFacts
from architect.daemon.pods import ManagedPod
from architect.daemon.pods import read as read_pod
from architect.daemon.succession import Leaving, Succession
from architect.kube import checkpoints, resources
from architect.kube.api import Api, JsonObject
from architect.kube.checkpoints import Capture, CheckpointSpec, Trigger
from architect.kube.conditions import Condition, Status
from architect.kube.errors import AlreadyExists, NotFound
from architect.kube.events import EventType
from architect.kube.resources import ObjectRef

log = logging.getLogger(__name__)

PACK_SECONDS: Final = 600.0
"""For the files of one pod."""
PUBLISH_SECONDS: Final = 300.0
"""How long an API server that is away is tried, before the next sweep tries again."""
PUBLISH_STEP_SECONDS: Final = 0.5
KEEPER_TRIES: Final = 3
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

Tell = Callable[[ManagedPod, status.Note], None]


@dataclass(frozen=True, kw_only=True)
class Stay:
    """A saved pod whose containers stay while its successor begins.

    Who still has its address is refused at once, as by a closed port; with the pod the address
    goes, and who asks then waits for a time-out.
    """

    checkpoint: ObjectRef
    ends_at: float
    """By the monotonic clock: before kubelet loses its patience."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a pod that leaves."""

    is_captured: bool
    reason: str
    message: str = ""
    is_final: bool = True
    """False: the pod does not leave, which may change."""
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
        host: Host,
        facts: NodeFacts,
        depot: Depot,
        metrics: Metrics,
        tell: Tell,
        patience_seconds: float,
        at_once: int,
    ) -> None:
        self._api = api
        self._node = node
        self._keeper = keeper
        self._host = host
        self._node_facts = facts
        self._depot = depot
        self._metrics = metrics
        self._tell = tell
        self._patience_seconds = patience_seconds
        self._lock = threading.Lock()
        self._jobs: dict[str, Future[Outcome]] = {}
        self._pool = ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="departure")
        # Apart: an API server that is away must not keep pods from being saved.
        self._publishers = ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="publish")

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
        """Let go of the outcome of a pod that is gone."""
        with self._lock:
            self._jobs.pop(uid, None)

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
            reason = getattr(error, "reason", type(error).__name__)
            self._metrics.failures.labels("capture", reason).inc()
            log.error("%s is not saved: %s", ref, error)
            return Outcome(is_captured=False, reason=reason, message=str(error))

    def _depart(self, ref: ObjectRef) -> Outcome:
        started = time.monotonic()
        value = self._api.find(ref)
        if value is None:
            return Outcome(is_captured=False, reason="PodGone")
        pod = read_pod(value)
        if pod is None:
            return Outcome(is_captured=False, reason="Unmanaged")
        if not pod.is_terminating:
            return Outcome(is_captured=False, reason="Stays", is_final=False)
        if self._depot.departure(ref.uid) is not None:
            return Outcome(is_captured=True, reason="Captured")
        who = identity.identity_of(value)
        expected = self._judge(value, who, migrate=pod.policy.migrate)
        if not expected.is_expected:
            log.info("%s gets its signal: %s: %s", ref, expected.reason, expected.message)
            return Outcome(is_captured=False, reason=expected.reason, message=expected.message)
        assert who is not None  # nobody without an owner has a successor
        trigger = succession.trigger_of(value)
        spec = CheckpointSpec(
            pod=ref,
            trigger=trigger,
            template_hash=who.template_hash,
            template_parts=identity.parts(value),
            containers=pod.managed,
            owner=checkpoints.Owner(
                api_version=who.owner.api_version,
                kind=who.owner.kind,
                name=who.owner.name,
                uid=who.owner.uid,
                ordinal=who.ordinal,
            ),
        )
        checkpoint = self._announce(spec)
        try:
            image_bytes = self._capture(pod, value, who, trigger=trigger)
        except (ArchitectError, OSError) as error:
            self._give_up(pod, checkpoint, error)
            raise
        took = time.monotonic() - started
        capture = Capture(
            node=self._node,
            path="",
            peer_id=ref.uid,
            image_bytes=image_bytes,
            at=datetime.datetime.now(tz=datetime.UTC),
            requirements=self._node_facts.requirements,
            durations_seconds={"capture": took},
        )
        self._publishers.submit(self._publish, checkpoint, capture)
        self._tell(pod, _captured_note(took, image_bytes, trigger))
        stays = None
        if who.ordinal is None:  # with one, the successor waits for the end of this pod
            grace = float(value["metadata"].get("deletionGracePeriodSeconds") or 0)
            stays = Stay(
                checkpoint=checkpoints.ref_of(ref, trigger=trigger),
                ends_at=started + min(STAY_SECONDS, grace - STAY_MARGIN_SECONDS),
            )
        return Outcome(is_captured=True, reason="Captured", stays=stays)

    def _linger(self, stay: Stay) -> None:
        """Return once the successor runs and kube-proxy has heard of it, or time is up."""
        while time.monotonic() < stay.ends_at:
            try:
                found = self._api.find(stay.checkpoint)
            except ArchitectError:
                return
            if found is None:
                return
            if _is_true(found, checkpoints.RESTORED):
                left = stay.ends_at - time.monotonic()
                time.sleep(max(0.0, min(FOLLOW_SECONDS, left)))
                return
            time.sleep(STAY_STEP_SECONDS)

    def _judge(self, pod: JsonObject, who: Identity | None, *, migrate: Migrate) -> Succession:
        """Ask whether a successor will come, again while the owner's status is being updated."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            leaving = Leaving(
                pod=pod,
                owner=None
                if who is None
                else views.owner_object(self._api, who.owner, namespace=who.namespace),
                pods=() if who is None else views.pods_beside(self._api, pod, who.owner),
            )
            found = succession.judge(leaving, migrate=migrate)
            if found.is_settled or time.monotonic() > deadline:
                return found
            time.sleep(SETTLE_STEP_SECONDS)

    def _announce(self, spec: CheckpointSpec) -> JsonObject:
        """Create the object before anything is done: the successor looks for it."""
        where = checkpoints.ref_of(spec.pod, trigger=spec.trigger)
        try:
            value = self._api.create(where, checkpoints.build(spec))
        except AlreadyExists:
            value = self._api.get(where.resource, where.name, namespace=where.namespace)
        return checkpoints.set_status(
            self._api,
            value,
            Condition(
                type=checkpoints.CAPTURED,
                status=Status.UNKNOWN,
                reason="Capturing",
                message=f"the pod is being saved on node {self._node}",
            ),
        )

    def _about(self, pod: ManagedPod, value: JsonObject, who: Identity, directory: Path) -> About:
        digests = {
            status["name"]: str(status.get("imageID") or "").rpartition("@")[2]
            for status in value["status"].get("containerStatuses") or ()
        }
        return About(
            id=pod.uid,
            namespace=pod.namespace,
            pod_name=pod.name,
            pod_uid=pod.uid,
            node=self._node,
            created=datetime.datetime.now(tz=datetime.UTC).replace(microsecond=0),
            template_hash=who.template_hash,
            owner=checkpoints.Owner(
                api_version=who.owner.api_version,
                kind=who.owner.kind,
                name=who.owner.name,
                uid=who.owner.uid,
                ordinal=who.ordinal,
            ),
            containers={
                name: Container(
                    image_digest=digests.get(name, ""),
                    init_sha256=self._depot.init_of(pod.uid, name),
                    tree=f"containers/{name}/image",
                    layer=layer if (directory / layer).exists() else None,
                )
                for name in pod.managed
                for layer in (f"containers/{name}/layer.tar",)
            },
            requirements=self._node_facts.requirements,
            format_version=checkpoints.FORMAT_VERSION,
        )

    def _capture(
        self, pod: ManagedPod, value: JsonObject, who: Identity, *, trigger: Trigger
    ) -> int:
        """Save the pod on the disk; when it returns, the pod has left. Raises, undone."""
        reason = f"its successor goes on with its memory ({trigger.value})"
        self._keeper.capture(
            pod.uid,
            reason=reason,
            patience_seconds=self._patience_seconds,
            ends_with=_hooks(value),
        )
        directory = self._depot.begin_departure(pod.uid)
        self._pack(pod.uid, directory)
        self._depot.link_images(pod.uid, pod.managed, into=directory)
        manifest = contents.build(directory, self._about(pod, value, who, directory))
        contents.write(directory, manifest)
        self._keeper.depart(pod.uid, reason=reason)
        # From here on nothing can be undone.
        self._depot.finish_departure(pod.uid)
        return manifest.total_bytes

    def _pack(self, uid: str, directory: Path) -> None:
        program = names.CURRENT / "bin" / "architect-runtime"
        self._host.run(
            [str(program), "save-files", uid, "--into", str(directory)],
            timeout_seconds=PACK_SECONDS,
        )

    def _give_up(
        self, pod: ManagedPod, checkpoint: JsonObject, error: ArchitectError | OSError
    ) -> None:
        """Have the pod awake again, so that its signal reaches it, and say why."""
        self._depot.give_up_departure(pod.uid)
        for _ in range(KEEPER_TRIES):
            try:
                self._keeper.wake(pod.uid, reason="it cannot be saved")
                break
            except (ArchitectError, OSError) as second:
                log.error("%s is not woken: %s", pod.full_name, second)
        self._tell(
            pod,
            status.Note(
                reason=names.EVENT_CAPTURE_FAILED,
                text=f"not saved, its successor starts fresh: {error}",
                action="Capture",
                event_type=EventType.WARNING,
            ),
        )
        with contextlib.suppress(ArchitectError):
            checkpoints.set_status(
                self._api,
                checkpoint,
                Condition(
                    type=checkpoints.CAPTURED,
                    status=Status.FALSE,
                    reason=getattr(error, "reason", "CaptureFailed") or "CaptureFailed",
                    message=str(error)[:1000],
                ),
                Condition(
                    type=checkpoints.FAILED,
                    status=Status.TRUE,
                    reason="CaptureFailed",
                    message=str(error)[:1000],
                ),
            )

    def _publish(self, checkpoint: JsonObject, capture: Capture) -> None:
        """Say that the pod can be restored, as soon as the API server listens."""
        ref = ObjectRef.of(resources.CHECKPOINTS, checkpoint)
        deadline = time.monotonic() + PUBLISH_SECONDS
        while True:
            try:
                found = self._api.find(ref)
                if found is None:
                    log.warning("%s was deleted; what it stands for goes, too", ref)
                    return
                checkpoints.set_status(
                    self._api,
                    found,
                    Condition(
                        type=checkpoints.CAPTURED,
                        status=Status.TRUE,
                        reason="Captured",
                        message=f"the pod was saved on node {self._node}",
                    ),
                    Condition(
                        type=checkpoints.AVAILABLE,
                        status=Status.TRUE,
                        reason="OnPeer",
                        message=f"node {self._node} serves it",
                    ),
                    fields=checkpoints.captured_status(capture),
                )
                return
            except (Retryable, NotFound) as error:
                if time.monotonic() > deadline:
                    log.error("%s is saved, and nobody knows: %s", ref, error)
                    return
                time.sleep(PUBLISH_STEP_SECONDS)
            except ArchitectError as error:
                log.error("%s is saved, and nobody knows: %s", ref, error)
                return


def _captured_note(took: float, image_bytes: int, trigger: Trigger) -> status.Note:
    text = (
        f"saved in {took:.2f} s, {image_bytes / 2**20:.1f} MiB, for the pod that replaces it "
        f"({trigger.value})"
    )
    return status.Note(reason=names.EVENT_CAPTURED, text=text, action="Capture")


def _is_true(value: JsonObject, kind: str) -> bool:
    found = (value.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == kind and c.get("status") == "True" for c in found)


def _hooks(pod: JsonObject) -> list[list[str]]:
    """Return the commands of the pod's preStop hooks."""
    found = []
    for container in pod["spec"]["containers"]:
        hook = (container.get("lifecycle") or {}).get("preStop") or {}
        if argv := (hook.get("exec") or {}).get("command"):
            found.append([str(word) for word in argv])
    return found
