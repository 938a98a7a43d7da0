"""Pods that come to this node: what their predecessors left is fetched before they start.

The runtime asks at ``create`` and waits. What a pod gets is decided once, when its first container
is created; after that its containers have lives of their own, and a restart is a plain start.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from architect.api import names
from architect.core import durations
from architect.core.errors import ArchitectError, NodeError, Rejected
from architect.daemon import claims, status
from architect.daemon.checkpoint import contents
from architect.daemon.checkpoint.manifest import Manifest
from architect.daemon.claims import Bounds, Claim, Fresh, Newcomer
from architect.daemon.metrics import Metrics
from architect.daemon.moves import views
from architect.daemon.moves.depot import Depot
from architect.daemon.moves.endpoint import text
from architect.daemon.node_facts import NodeFacts
from architect.daemon.offers import Node
from architect.daemon.pods import ManagedPod
from architect.daemon.store import PodStore
from architect.kube import checkpoints, resources
from architect.kube.api import Api, JsonObject
from architect.kube.conditions import Condition, Status
from architect.kube.errors import Conflict
from architect.kube.events import EventType
from architect.kube.resources import CHECKPOINTS, ObjectRef

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.1
"""Between two looks at the API while a pod waits for its predecessor."""

Tell = Callable[[ManagedPod, status.Note], None]


class Fetch(Protocol):
    """Brings a saved pod from another node."""

    def __call__(
        self,
        node: str,
        checkpoint_id: str,
        target: Path,
        *,
        accept: Callable[[Manifest], None],
        is_durable: bool,
    ) -> object:
        """See :meth:`architect.daemon.peer.service.Peer.fetch`."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a pod starts from."""

    is_restored: bool
    reason: str
    message: str = ""


class Arrivals:
    """One decision per pod that comes."""

    def __init__(
        self,
        api: Api,
        *,
        node: str,
        store: PodStore,
        facts: NodeFacts,
        depot: Depot,
        fetch: Fetch,
        metrics: Metrics,
        tell: Tell,
        patience_seconds: float,
    ) -> None:
        self._api = api
        self._node = node
        self._store = store
        self._node_facts = facts
        self._depot = depot
        self._fetch = fetch
        self._metrics = metrics
        self._tell = tell
        self._bounds = Bounds(capture_seconds=patience_seconds)
        self._lock = threading.Lock()
        self._pods: dict[str, _Pod] = {}

    def arriving(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Answer the runtime: does something lie ready for the pod? Raises Rejected."""
        ref = resources.pod(
            text(arguments, "namespace"), text(arguments, "pod_name"), uid=text(arguments, "pod")
        )
        with self._lock:
            pod = self._pods.setdefault(ref.uid, _Pod())
        with pod.lock:
            if pod.outcome is None:
                pod.outcome = self._decide(ref, pod)
            outcome = pod.outcome
        # Once it was adopted there is nothing left for a container that comes again.
        name = text(arguments, "container")
        is_there = outcome.is_restored and self._depot.has_come(ref.uid, name)
        return {"restore": is_there, "reason": outcome.reason, "message": outcome.message}

    def restored(self, uid: str, *, pod: ManagedPod | None) -> None:
        """Learn from the keeper that a container of the pod goes on with what came."""
        with self._lock:
            found = self._pods.get(uid)
        if found is None or found.checkpoint is None:
            return
        arrival = self._depot.arrival(uid)
        if arrival is not None and any((arrival / "containers").glob("*/image")):
            return  # other containers are still to come
        took = time.monotonic() - found.started
        with contextlib.suppress(ArchitectError):
            value = self._api.find(found.checkpoint)
            if value is not None:
                checkpoints.set_status(
                    self._api,
                    value,
                    Condition(
                        type=checkpoints.RESTORED,
                        status=Status.TRUE,
                        reason="Restored",
                        message=f"on node {self._node}, {durations.render(took)} after its start",
                    ),
                    Condition(
                        type=checkpoints.AVAILABLE,
                        status=Status.FALSE,
                        reason="Restored",
                        message="it restores one pod only",
                    ),
                )
        self._depot.drop_arrival(uid)
        if pod is not None:
            self._tell(
                pod,
                status.Note(
                    reason=names.EVENT_RESTORED,
                    text=f"goes on with the memory of pod {found.predecessor}, "
                    f"{durations.render(took)} after its start",
                    action="Restore",
                ),
            )

    def forget(self, uid: str) -> None:
        """Let go of what came for a pod that is gone."""
        with self._lock:
            self._pods.pop(uid, None)
        self._depot.drop_arrival(uid)

    def _decide(self, ref: ObjectRef, pod: _Pod) -> Outcome:
        if self._depot.arrival(ref.uid) is not None:
            return Outcome(is_restored=True, reason="Restored")
        known = self._store.get(ref.uid)
        if known is not None and known.owner is None:
            return Outcome(is_restored=False, reason="NoController")  # no call leaves the node
        try:
            value = self._api.find(ref)
            if value is None:
                return Outcome(is_restored=False, reason="PodGone")
            newcomer = claims.newcomer_of(value, has_started=_has_run(value))
            found = claims.never(newcomer) or self._wait_for(value, newcomer)
            if isinstance(found, Fresh):
                log.info("%s starts fresh: %s: %s", ref, found.reason, found.message)
                return Outcome(is_restored=False, reason=found.reason, message=found.message)
            pod.checkpoint = ObjectRef.of(CHECKPOINTS, found)
            pod.predecessor = str(found["spec"]["podRef"]["name"])
            self._bring(found, ref)
            return Outcome(is_restored=True, reason="Restored")
        except (ArchitectError, OSError) as error:
            reason = getattr(error, "reason", type(error).__name__)
            self._metrics.failures.labels("restore", reason).inc()
            log.error("%s starts fresh: %s", ref, error)
            self._tell_failure(ref, pod, error)
            return Outcome(is_restored=False, reason=reason, message=str(error))

    def _wait_for(self, value: JsonObject, newcomer: Newcomer) -> JsonObject | Fresh:
        """Return the claimed checkpoint, or why there is none. Raises ArchitectError."""
        assert newcomer.identity is not None  # else claims.never() has spoken
        owner = newcomer.identity.owner
        needs = self._node_facts.requirements
        node = Node(
            architecture=needs.architecture,
            cpu_features=frozenset(needs.cpu_features),
            criu=needs.criu,
        )
        started = time.monotonic()
        while True:
            beside = views.pods_beside(self._api, value, owner)
            decision = claims.decide(
                newcomer,
                node=node,
                found=self._api.list(CHECKPOINTS, namespace=newcomer.namespace).items,
                siblings=[s for pod in beside if (s := claims.sibling_of(pod)) is not None],
                waited_seconds=time.monotonic() - started,
                bounds=self._bounds,
            )
            if isinstance(decision, Fresh):
                return decision
            if isinstance(decision, Claim):
                with contextlib.suppress(Conflict):
                    return self._claim(decision, value)
                # Somebody was faster: look what is left, and not all at the same moment.
                time.sleep(random.uniform(0, LOOK_SECONDS))
                continue
            log.info("%s waits for %s", newcomer.name, decision.for_what)
            time.sleep(min(LOOK_SECONDS, decision.seconds))

    def _claim(self, decision: Claim, value: JsonObject) -> JsonObject:
        metadata = value["metadata"]
        found = self._api.get(CHECKPOINTS, decision.name, namespace=metadata["namespace"])
        if found["metadata"]["resourceVersion"] != decision.resource_version:
            raise Conflict(f"checkpoint {decision.name} was changed")
        pod = resources.pod(metadata["namespace"], metadata["name"], uid=metadata["uid"])
        return checkpoints.claim(self._api, found, pod=pod, node=self._node)

    def _bring(self, checkpoint: JsonObject, ref: ObjectRef) -> None:
        location = (checkpoint.get("status") or {}).get("location") or {}
        peer = location.get("peer")
        if not peer:
            raise NodeError(
                f"checkpoint {checkpoint['metadata']['name']} lies with no node",
                reason="NoLocation",
            )
        if peer["node"] == self._node:
            directory = self._depot.departure(peer["id"])
            if directory is None:
                raise NodeError(
                    f"checkpoint {peer['id']} is not on this node any more", reason="NoLocation"
                )
            manifest = contents.read(directory)
            _accept(manifest, checkpoint)
            contents.verify(directory, manifest)
            self._depot.move_here(peer["id"], to=ref.uid)
            return
        # Not durable: after a power cut the source still has it, and this pod is another one.
        self._fetch(
            peer["node"],
            peer["id"],
            self._depot.arrival_of(ref.uid),
            accept=lambda manifest: _accept(manifest, checkpoint),
            is_durable=False,
        )

    def _tell_failure(self, ref: ObjectRef, pod: _Pod, error: Exception) -> None:
        known = self._store.get(ref.uid)
        if known is not None:
            self._tell(
                known,
                status.Note(
                    reason=names.EVENT_RESTORE_FAILED,
                    text=f"starts fresh, without what came before: {error}",
                    action="Restore",
                    event_type=EventType.WARNING,
                ),
            )
        if pod.checkpoint is None:
            return
        with contextlib.suppress(ArchitectError):
            value = self._api.find(pod.checkpoint)
            if value is not None:
                checkpoints.set_status(
                    self._api,
                    value,
                    Condition(
                        type=checkpoints.FAILED,
                        status=Status.TRUE,
                        reason="RestoreFailed",
                        message=str(error)[:1000],
                    ),
                )


class _Pod:
    """What is known of one pod that comes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.started = time.monotonic()
        self.outcome: Outcome | None = None
        self.checkpoint: ObjectRef | None = None
        self.predecessor = ""


def _accept(manifest: Manifest, checkpoint: JsonObject) -> None:
    """Raise Rejected unless *manifest* is of what *checkpoint* says: that is what was claimed."""
    spec, about = checkpoint["spec"], manifest.about
    for what, said, claimed in (
        ("namespace", about.namespace, checkpoint["metadata"]["namespace"]),
        ("pod", about.pod_uid, spec["podRef"]["uid"]),
        ("template", about.template_hash, spec.get("templateHash", "")),
        ("containers", sorted(about.containers), sorted(spec["containers"])),
    ):
        if said != claimed:
            raise Rejected(
                f"the manifest is of {what} {said}, the checkpoint of {claimed}",
                reason="WrongCheckpoint",
            )


def _has_run(pod: JsonObject) -> bool:
    """Whether a container of the pod has run already: then this is a restart within it."""
    for found in (pod.get("status") or {}).get("containerStatuses") or ():
        state = found.get("state") or {}
        if found.get("restartCount") or found.get("lastState"):
            return True
        if "running" in state or "terminated" in state:
            return True
    return False
