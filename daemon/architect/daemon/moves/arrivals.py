"""Pods that come to this node: what their predecessors left is fetched before they start.

The runtime asks at ``create`` and waits. What a pod gets is decided once, when its first container
is created; after that its containers have lives of their own, and a restart is a plain start.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from architect.api import names
from architect.checkpoint.manifest import Manifest
from architect.core import durations
from architect.core.errors import ArchitectError, NodeError, Rejected, Retryable
from architect.core.wire import text
from architect.daemon import claims, images, starts, status
from architect.daemon.checkpoint import contents
from architect.daemon.claims import Bounds, Claim, Fresh, Newcomer
from architect.daemon.metrics import Metrics
from architect.daemon.moves import objects, views
from architect.daemon.moves.depot import Decided, Depot
from architect.daemon.moves.retrieving import stored_in
from architect.daemon.moves.starting import Starting
from architect.daemon.node_facts import NodeFacts
from architect.daemon.offers import Node
from architect.daemon.pods import ManagedPod
from architect.daemon.pods import read as read_pod
from architect.daemon.shared import SharedReads
from architect.daemon.store import PodStore
from architect.kube import checkpoints, resources
from architect.kube.api import Api, JsonObject
from architect.kube.errors import Conflict
from architect.kube.events import EventType
from architect.kube.resources import CHECKPOINTS, ObjectRef

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.1
"""Between two looks at the API while a pod waits for its predecessor."""
LOOKS_PER_WAIT: Final = 20
"""Who has waited long looks less often: nothing is lost by a twentieth of that."""
API_SECONDS: Final = 0.5
ANSWER_SECONDS: Final = 100.0
"""From a question to its answer: less than the runtime waits (``ARRIVING_SECONDS``), so that none
comes to somebody who has started fresh meanwhile."""

STORED_PATIENCE_SECONDS: Final = 3.0
"""How long a predecessor's node may give nothing if the object store has it all, too."""

EXPECTED: Final = frozenset(
    {
        "AlreadyRestored",
        "Late",
        "Leaving",
        "NoCheckpoint",
        "Restarted",
        "Taken",
    }
)
"""Reasons of a fresh start that nobody wonders about."""

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
        patience_seconds: float | None,
        timeout_seconds: float,
    ) -> object:
        """See :meth:`architect.daemon.peer.service.Peer.fetch`."""


class Retrieve(Protocol):
    """Brings a saved pod from the object store."""

    def __call__(
        self,
        checkpoint: JsonObject,
        pod: ObjectRef,
        target: Path,
        *,
        accept: Callable[[Manifest], None],
        timeout_seconds: float,
    ) -> None:
        """See :meth:`architect.daemon.moves.retrieving.Retrieving.retrieve`."""


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
        retrieve: Retrieve | None,
        starting: Starting | None,
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
        self._retrieve = retrieve
        self._starting = starting
        self._metrics = metrics
        self._tell = tell
        self._bounds = Bounds(capture_seconds=patience_seconds)
        self._looks = SharedReads[tuple[list[JsonObject], list[JsonObject]]](
            apart_seconds=LOOK_SECONDS
        )
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
        # Once it was adopted there is nothing left for a container that comes again; and where one
        # began without us, memory from before must not come beside it, or after it.
        is_there = (
            outcome.is_restored
            and not self._depot.began_without_us(ref.uid)
            and self._depot.has_come(ref.uid, text(arguments, "container"))
        )
        return {"restore": is_there, "reason": outcome.reason, "message": outcome.message}

    def restored(self, uid: str, *, pod: ManagedPod | None) -> None:
        """Learn that a container of the pod goes on with what came."""
        decided = self._depot.decided(uid)
        if decided is None or not decided.checkpoint or decided.is_told:
            return
        arrival = self._depot.arrival(uid)
        if arrival is not None and not self._depot.is_used_up(uid):
            return  # other containers are still to come
        took = max(0.0, time.time() - decided.asked_at)
        self._depot.drop_arrival(uid)
        self._tell_end(uid, decided, objects.restored(self._node, after_seconds=took))
        if pod is not None:
            self._tell(
                pod,
                status.Note(
                    reason=names.EVENT_RESTORED,
                    text=f"goes on with the memory of pod {decided.predecessor}, "
                    f"{durations.render(took)} after its start",
                    action="Restore",
                ),
            )

    def not_restored(self, uid: str, message: str) -> None:
        """Learn that the pod starts fresh after all, and why."""
        decided = self._depot.decided(uid)
        if decided is not None and decided.checkpoint and not decided.is_told:
            self._tell_end(uid, decided, objects.not_restored(message))

    def _is_gone(self, uid: str) -> bool:
        decided = self._depot.decided(uid)
        if decided is None:
            return True  # neither the API nor its watch knows whose it is
        try:
            found = self._api.find(resources.pod(decided.namespace, decided.name, uid=uid))
        except ArchitectError as error:
            log.warning("whether pod %s is gone is looked at later: %s", uid, error)
            return False
        return images.is_gone(found, node=self._node)

    def settle(self, uid: str) -> None:
        """Say how it ended for a pod that has taken what came, if nobody has said it yet.

        A daemon that was away when the keeper told it finds it on the disk.
        """
        decided = self._depot.decided(uid)
        if decided is None or not decided.has_come or decided.is_told:
            return
        if self._depot.arrival(uid) is not None and not self._depot.is_used_up(uid):
            return
        if self._depot.has_refused(uid):
            said = objects.not_restored(f"node {self._node} keeps the image that failed")
        else:
            said = objects.restored(self._node, after_seconds=None)
        self._depot.drop_arrival(uid)
        self._tell_end(uid, decided, said)

    def hand_on(self, ref: ObjectRef) -> bool:
        """Give back what came for a pod that leaves; False if there is nothing, or it has run.

        Whoever replaces the pod gets it.
        """
        with self._lock:
            pod = self._pods.setdefault(ref.uid, _Pod())
        pod.is_leaving = True
        if not pod.lock.acquire(blocking=False):
            if pod.outcome is None:
                return True  # whoever is at it sees that the pod leaves, and gives back
            pod.lock.acquire()
        try:
            return self._give_back(ref.uid)
        finally:
            pod.lock.release()

    def forget(self, uid: str) -> None:
        """Let go of what came for a pod that is gone; what has not run is another one's.

        Where anything was decided, a read that is not from a watch says whether it is gone.
        """
        if not self._is_gone(uid):
            return
        with self._lock:
            pod = self._pods.pop(uid, None)
        if pod is not None:
            pod.is_leaving = True
            if not pod.lock.acquire(blocking=False):
                return  # it is being decided; upkeep removes what is left
            pod.lock.release()
        if not self._give_back(uid):
            self.settle(uid)
        self._depot.drop_arrival(uid)
        self._depot.forget_decision(uid)

    def forget_all_but(self, uids: Collection[str]) -> None:
        """Let go of all pods that are not among *uids*, unless somebody asks for them now."""
        with self._lock:
            for uid in [u for u, p in self._pods.items() if u not in uids]:
                if not self._pods[uid].lock.locked():
                    del self._pods[uid]

    def is_working(self, uid: str) -> bool:
        """Whether it is being decided what pod *uid* starts from."""
        with self._lock:
            pod = self._pods.get(uid)
        return pod is not None and pod.lock.locked()

    def _decide(self, ref: ObjectRef, pod: _Pod) -> Outcome:
        outcome = self._begin(ref, pod)
        if pod.is_leaving and outcome.is_restored and self._give_back(ref.uid):
            return Outcome(is_restored=False, reason="Leaving", message="the pod is being deleted")
        return outcome

    def _begin(self, ref: ObjectRef, pod: _Pod) -> Outcome:
        if self._depot.began_without_us(ref.uid):
            return Outcome(is_restored=False, reason="Restarted", message="it began without us")
        decided = self._depot.decided(ref.uid)
        if decided is not None and not decided.checkpoint:
            return Outcome(is_restored=False, reason=decided.reason, message=decided.message)
        if decided is not None and self._depot.arrival(ref.uid) is not None:
            self._depot.note(ref.uid, replace(decided, has_come=True))
            return Outcome(is_restored=True, reason="Restored")
        if decided is not None and decided.has_come:
            return Outcome(is_restored=False, reason="AlreadyRestored", message="it has run since")
        known = self._store.get(ref.uid)
        if known is not None and known.owner is None and known.policy.start_from is None:
            return Outcome(is_restored=False, reason="NoController")  # no call leaves the node
        deadline = time.monotonic() + ANSWER_SECONDS
        claimed: Decided | None = None
        try:
            value = self._api.find(ref)
            if value is None:
                return Outcome(is_restored=False, reason="PodGone")
            known = known or read_pod(value)
            newcomer = claims.newcomer_of(value, has_started=False)
            if views.has_run(value, containers=newcomer.containers):
                newcomer = replace(newcomer, has_started=True)
            if (source := starts.source_of(value)) is not None:
                found = self._start_from(source, ref, value, newcomer, pod)
            elif (never := claims.never(newcomer)) is not None:
                log.info("%s starts fresh: %s: %s", ref, never.reason, never.message)
                return Outcome(is_restored=False, reason=never.reason, message=never.message)
            else:
                found = self._wait_for(value, newcomer, pod)
            if isinstance(found, Fresh):
                return self._fresh(ref, known, found)
            claimed = self._claimed(found, ref, asked_at=pod.asked_at)
            self._depot.note(ref.uid, claimed)
            self._bring(found, ref, seconds=deadline - time.monotonic())
            self._depot.note(ref.uid, replace(claimed, has_come=True))
            return Outcome(is_restored=True, reason="Restored")
        except (ArchitectError, OSError) as error:
            reason = getattr(error, "reason", "") or type(error).__name__
            self._metrics.failures.labels("restore", reason).inc()
            if claimed is not None:
                self._tell_end(ref.uid, claimed, objects.not_restored(str(error)))
            return self._fresh(ref, known, Fresh(reason=reason, message=str(error)))

    def _fresh(self, ref: ObjectRef, pod: ManagedPod | None, found: Fresh) -> Outcome:
        """Write down that the pod starts fresh, and say so where somebody hoped for more."""
        outcome = Outcome(is_restored=False, reason=found.reason, message=found.message)
        log.info("%s starts fresh: %s: %s", ref, found.reason, found.message)
        if pod is not None and found.reason not in EXPECTED:
            self._tell(
                pod,
                status.Note(
                    reason=names.EVENT_RESTORE_FAILED,
                    text=f"starts fresh, without what came before: {found.reason}: {found.message}",
                    action="Restore",
                    event_type=EventType.WARNING,
                ),
            )
        decided = Decided(
            namespace=ref.namespace or "", name=ref.name, reason=found.reason, message=found.message
        )
        try:
            self._depot.note(ref.uid, decided)
        except OSError as error:
            log.error("%s: what was decided cannot be written: %s", ref, error)
        return outcome

    def _claimed(self, checkpoint: JsonObject, ref: ObjectRef, *, asked_at: float) -> Decided:
        spec = checkpoint["spec"]
        return Decided(
            namespace=ref.namespace or "",
            name=ref.name,
            reason="Claimed",
            checkpoint=checkpoint["metadata"]["name"],
            departed=str(spec["podRef"]["uid"]),
            predecessor=str(spec["podRef"]["name"]),
            is_local=_peer_of(checkpoint).get("node") == self._node,
            asked_at=asked_at,
        )

    def _start_from(
        self, source: str, ref: ObjectRef, value: JsonObject, newcomer: Newcomer, pod: _Pod
    ) -> JsonObject | Fresh:
        """Return the claimed checkpoint of a PersistentCheckpoint, or why there is none."""
        if self._starting is None:
            return Fresh(
                reason="NoStore",
                message=f"PersistentCheckpoint {source}: this node is configured for no object "
                "store",
            )
        return self._starting.claim(
            ref,
            value,
            newcomer,
            name=source,
            node=self._this_node(),
            is_leaving=lambda: pod.is_leaving,
        )

    def _this_node(self) -> Node:
        needs = self._node_facts.requirements
        return Node(
            architecture=needs.architecture,
            cpu_features=frozenset(needs.cpu_features),
            criu=needs.criu,
        )

    def _wait_for(self, value: JsonObject, newcomer: Newcomer, pod: _Pod) -> JsonObject | Fresh:
        """Return the claimed checkpoint, or why there is none. Raises ArchitectError."""
        assert newcomer.identity is not None  # else claims.never() has spoken
        owner = newcomer.identity.owner
        node = self._this_node()
        family = views.Family.of(value, owner)
        started, told = time.monotonic(), ""
        while True:
            waited = time.monotonic() - started
            try:
                beside, found = self._looks.read(family, lambda: self._look(family))
                if pod.is_leaving or views.is_leaving(value, beside):
                    return Fresh(reason="Leaving", message="the pod is being deleted")
                decision = claims.decide(
                    newcomer,
                    node=node,
                    found=found,
                    siblings=[s for p in beside if (s := claims.sibling_of(p)) is not None],
                    living={other["metadata"]["uid"] for other in beside},
                    waited_seconds=waited,
                    bounds=self._bounds,
                )
                if isinstance(decision, Fresh):
                    return decision
                if isinstance(decision, Claim):
                    return self._claim(decision, value)
            except Conflict:
                # Somebody was faster: look what is left, and not all at the same moment.
                time.sleep(random.uniform(0, LOOK_SECONDS))
                continue
            except Retryable as error:
                if waited > self._bounds.capture_seconds:
                    raise
                log.warning("%s waits for the API: %s", newcomer.name, error)
                time.sleep(API_SECONDS)
                continue
            if decision.for_what != told:
                told = decision.for_what
                log.info("%s waits for %s", newcomer.name, told)
            time.sleep(min(max(LOOK_SECONDS, waited / LOOKS_PER_WAIT), decision.seconds))

    def _look(self, family: views.Family) -> tuple[list[JsonObject], list[JsonObject]]:
        return family.pods(self._api), family.checkpoints(self._api)

    def _claim(self, decision: Claim, value: JsonObject) -> JsonObject:
        metadata = value["metadata"]
        found = self._api.get(CHECKPOINTS, decision.name, namespace=metadata["namespace"])
        if found["metadata"]["resourceVersion"] != decision.resource_version:
            raise Conflict(f"checkpoint {decision.name} was changed")
        pod = resources.pod(metadata["namespace"], metadata["name"], uid=metadata["uid"])
        return checkpoints.claim(self._api, found, pod=pod, node=self._node)

    def _bring(self, checkpoint: JsonObject, ref: ObjectRef, *, seconds: float) -> None:
        """Get what was claimed from where it lies. Raises ArchitectError or OSError."""
        ends_at = time.monotonic() + seconds
        if not (peer := _peer_of(checkpoint)):
            self._bring_from_store(checkpoint, ref, ends_at=ends_at)
            return
        try:
            if peer["node"] == self._node:
                self._take_own(checkpoint, peer["id"], ref)
            else:
                self._bring_from_peer(checkpoint, ref, ends_at=ends_at)
        except (NodeError, OSError):
            raise  # this node's own, which the other way shares
        except ArchitectError as error:
            found = self._stored_since(checkpoint)
            if found is None:
                raise
            log.warning("%s comes from the object store: %s", ref, error)
            self._bring_from_store(found, ref, ends_at=ends_at)

    def _take_own(self, checkpoint: JsonObject, checkpoint_id: str, ref: ObjectRef) -> None:
        directory = self._depot.departure(checkpoint_id)
        if directory is None:
            raise Rejected(
                f"checkpoint {checkpoint_id} is not on this node any more", reason="NoLocation"
            )
        manifest = contents.read(directory)
        _accept(manifest, checkpoint, sha256=_peer_of(checkpoint).get("manifestSha256"))
        contents.verify(directory, manifest)
        self._depot.move_here(checkpoint_id, to=ref.uid)

    def _bring_from_peer(self, checkpoint: JsonObject, ref: ObjectRef, *, ends_at: float) -> None:
        peer = _peer_of(checkpoint)
        # Not durable: after a power cut the source still has it, and this pod is another one.
        self._fetch(
            peer["node"],
            peer["id"],
            self._depot.arrival_of(ref.uid),
            accept=lambda found: _accept(found, checkpoint, sha256=peer.get("manifestSha256")),
            is_durable=False,
            patience_seconds=STORED_PATIENCE_SECONDS if stored_in(checkpoint) else None,
            timeout_seconds=max(1.0, ends_at - time.monotonic()),
        )

    def _bring_from_store(self, checkpoint: JsonObject, ref: ObjectRef, *, ends_at: float) -> None:
        name = checkpoint["metadata"]["name"]
        if not stored_in(checkpoint):
            raise NodeError(f"checkpoint {name} lies nowhere", reason="NoLocation")
        if self._retrieve is None:
            raise NodeError(
                f"checkpoint {name} lies in an object store, and this node is configured for none",
                reason="NoStore",
            )
        self._retrieve(
            checkpoint,
            ref,
            self._depot.arrival_of(ref.uid),
            # What holds it was compared with the checkpoint already.
            accept=lambda found: _accept(found, checkpoint, sha256=found.sha256),
            timeout_seconds=max(1.0, ends_at - time.monotonic()),
        )

    def _stored_since(self, checkpoint: JsonObject) -> JsonObject | None:
        """Return the checkpoint as it is now if it lies in the object store, too."""
        if self._retrieve is None:
            return None
        found = self._api.find(ObjectRef.of(CHECKPOINTS, checkpoint))
        return found if found is not None and stored_in(found) else None

    def _give_back(self, uid: str) -> bool:
        """Take back what has not run, and let others claim it; whether there was something."""
        decided = self._depot.decided(uid)
        if decided is None or not decided.checkpoint or decided.is_told:
            return False
        departed = decided.departed if decided.is_local else None
        if not self._depot.give_back(uid, departed=departed):
            return False
        said, fields = objects.given_back(decided.name)
        self._tell_end(uid, decided, said, fields=fields)
        return True

    def _tell_end(
        self,
        uid: str,
        decided: Decided,
        said: objects.Said,
        *,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Say in the Checkpoint how it ended; where nobody listens, upkeep says it later."""
        where = ObjectRef(
            resource=CHECKPOINTS, namespace=decided.namespace, name=decided.checkpoint
        )
        try:
            objects.change(self._api, where, said, fields=fields)
            self._depot.note(uid, replace(decided, is_told=True))
        except (ArchitectError, OSError) as error:
            log.error("%s does not say yet how it ended: %s", where, error)


class _Pod:
    """What is known of one pod that comes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked_at = time.time()
        self.outcome: Outcome | None = None
        self.is_leaving = False
        """Set by whoever learns it, without the lock: what comes is not for it any more."""


def _peer_of(checkpoint: JsonObject) -> dict[str, Any]:
    """Return with which node's daemon a checkpoint lies; empty if with none."""
    location = (checkpoint.get("status") or {}).get("location") or {}
    found: dict[str, Any] = location.get("peer") or {}
    return found


def _accept(manifest: Manifest, checkpoint: JsonObject, *, sha256: str | None) -> None:
    """Raise Rejected unless *manifest* is the one of *checkpoint*: that is what was claimed."""
    spec, about = checkpoint["spec"], manifest.about
    for what, said, claimed in (
        ("SHA-256", manifest.sha256, sha256),
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
