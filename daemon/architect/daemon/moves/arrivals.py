"""Pods that come to this node: what their predecessors left is fetched before they start.

The runtime asks at ``create`` and waits. What a pod gets is decided once, when its first container
is created; after that its containers have lives of their own, and a restart is a plain start.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Final

from architect.api import names
from architect.api.policy import OnRestoreFailure
from architect.core import podspec
from architect.core.errors import ArchitectError, Retryable
from architect.core.wire import text
from architect.daemon import claims, images, offers, starts
from architect.daemon.checkpoint import contents
from architect.daemon.claims import Fresh, Newcomer
from architect.daemon.engine_images import EngineImages
from architect.daemon.metrics import Metrics
from architect.daemon.moves import objects, views
from architect.daemon.moves.bringing import Bringing
from architect.daemon.moves.depot import Decided, Depot
from architect.daemon.moves.endings import Endings, Tell, where_of
from architect.daemon.moves.latest import Latest
from architect.daemon.moves.starting import Starting
from architect.daemon.moves.succeeding import Succeeding
from architect.daemon.node_facts import NodeFacts
from architect.daemon.offers import Misfit, Node
from architect.daemon.patience import patiently
from architect.daemon.pods import ManagedPod
from architect.daemon.pods import read as read_pod
from architect.daemon.store import PodStore
from architect.kube import checkpoints, resources
from architect.kube.api import Api, JsonObject
from architect.kube.checkpoints import Trigger
from architect.kube.events import EventType, Note
from architect.kube.resources import ObjectRef

log = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 100.0
"""From a question to its answer: less than the runtime waits (``ARRIVING_SECONDS``), so that none
comes to somebody who has started fresh meanwhile."""

ANNOUNCE_SECONDS: Final = 30.0
"""How long an API server that is away keeps a pod waiting for which everything is there."""
API_SECONDS: Final = 0.5

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


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a pod starts from."""

    is_restored: bool
    reason: str
    message: str = ""
    is_held: bool = False
    """It does not start: its policy wants its memory, which is there, and not to be had."""


class Arrivals:
    """One decision per pod that comes."""

    def __init__(
        self,
        api: Api,
        *,
        node: str,
        store: PodStore,
        facts: NodeFacts,
        images: EngineImages,
        depot: Depot,
        latest: Latest,
        succeeding: Succeeding,
        starting: Starting | None,
        bringing: Bringing,
        endings: Endings,
        metrics: Metrics,
        tell: Tell,
        has_left: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """Prepare; *has_left* tells of pods of this node that are saved, and not yet deleted."""
        self._api = api
        self._node = node
        self._store = store
        self._node_facts = facts
        self._images = images
        self._depot = depot
        self._latest = latest
        self._succeeding = succeeding
        self._starting = starting
        self._bringing = bringing
        self._endings = endings
        self._metrics = metrics
        self._tell = tell
        self._has_left = has_left
        self._lock = threading.Lock()
        self._pods: dict[str, _Pod] = {}

    def arriving(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Answer the runtime: does something lie ready for the pod? Raises Rejected."""
        ref = resources.pod(
            text(arguments, "namespace"), text(arguments, "pod_name"), uid=text(arguments, "pod")
        )
        if self._has_left(ref.uid):
            # A probe has failed, since nobody answers in there any more.
            return {
                **{"restore": False, "left": True, "reason": "Captured"},
                "message": "the pod was saved for its successor, and its machine ends",
            }
        with self._lock:
            pod = self._pods.setdefault(ref.uid, _Pod())
        with pod.lock:
            outcome = pod.outcome or self._decide(ref, pod)
            if not outcome.is_held:  # else the engine comes again, and so is it decided
                pod.outcome = outcome
        # Once it was adopted there is nothing left for a container that comes again; and where one
        # began without us, memory from before must not come beside it, or after it.
        is_there = outcome.is_restored and not self._depot.began_without_us(ref.uid)
        said: Outcome | Misfit = outcome
        # Of a pod of gVisor its sandbox asks first, then each container whether it fits in there.
        is_of_sandbox = not arguments.get("container")
        container = "" if is_of_sandbox else text(arguments, "container")
        if is_there and self._depot.has_sandbox_come(ref.uid):
            misfit = None if is_of_sandbox else self._misfit(ref, container)
            is_there, said = misfit is None, misfit or outcome
        elif is_there:
            is_there = not is_of_sandbox and self._depot.has_come(ref.uid, container)
        return {
            "restore": is_there,
            "hold": outcome.is_held,
            "reason": said.reason,
            "message": said.message,
        }

    def _misfit(self, ref: ObjectRef, container: str) -> Misfit | None:
        """Return how a container's image differs from the saved one, by a sandbox's side.

        The engine has it by now; when the sandbox was made, it may not have. Raises ArchitectError,
        OSError.
        """
        value = self._api.find(ref)
        if value is None:
            return Misfit("PodGone", "the pod is gone")
        images = {c["name"]: c["image"] for c in value["spec"]["containers"]}
        saved = contents.read(self._depot.arrival_of(ref.uid)).about.containers
        if container not in images or container not in saved:
            return Misfit("ContainersDiffer", f"container {container:.80} was not saved")
        here = self._images.names({container: images[container]})
        return offers.image_misfit(
            container, ran=saved[container].image_digest, here=here.get(container)
        )

    def hold(self, uid: str, *, reason: str, message: str) -> None:
        """Learn that a sandbox could not go on, and that its pod is not to start without it."""
        decided = self._depot.decided(uid)
        if decided is None or not decided.checkpoint or decided.is_told:
            return
        self._depot.note(uid, replace(decided, is_held=True, reason=reason, message=message))
        with self._lock:
            if (pod := self._pods.get(uid)) is not None:
                pod.outcome = None

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
            return self._endings.give_back(ref.uid)
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
        if not self._endings.give_back(uid):
            self._endings.settle(uid)
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
        if pod.is_leaving and outcome.is_restored and self._endings.give_back(ref.uid):
            gone = claims.LEAVING
            return Outcome(is_restored=False, reason=gone.reason, message=gone.message)
        return outcome

    def _begin(self, ref: ObjectRef, pod: _Pod) -> Outcome:
        if self._depot.began_without_us(ref.uid):
            return Outcome(is_restored=False, reason="Restarted", message="it began without us")
        decided = self._depot.decided(ref.uid)
        if decided is not None and decided.is_fresh:
            return Outcome(is_restored=False, reason=decided.reason, message=decided.message)
        known = self._store.get(ref.uid)
        deadline = time.monotonic() + ANSWER_SECONDS
        is_held = decided is not None and decided.is_held
        claimed = decided if is_held and decided is not None and decided.checkpoint else None
        try:
            if decided is not None and not is_held and self._depot.arrival(ref.uid) is not None:
                claimed = replace(decided, has_come=True)
                return self._go_on(ref, claimed, ends_at=deadline)
            if decided is not None and not is_held and decided.has_come:
                text = "it has run since"
                return Outcome(is_restored=False, reason="AlreadyRestored", message=text)
            if known is not None and known.owner is None and known.policy.start_from is None:
                return Outcome(is_restored=False, reason="NoController")  # no call leaves the node
            value = self._api.find(ref)
            if value is None:
                return Outcome(is_restored=False, reason="PodGone")
            known = known or read_pod(value)
            newcomer = claims.newcomer_of(value, has_started=False)
            # Of one that is held kubelet tells only what it has tried in vain.
            if not is_held and views.has_run(value, containers=newcomer.containers):
                newcomer = replace(newcomer, has_started=True)
            source = starts.source_of(value)
            # One that names its source does not move: that is no wish to start without it.
            if is_held and source is None and newcomer.wish is not None:
                return self._let_go(ref, known, newcomer.wish, decided)
            if decided is not None and is_held and _policy(known) is OnRestoreFailure.FAIL:
                return _held(decided)
            if source is None and (never := claims.never(newcomer)) is not None:
                log.info("%s starts fresh: %s: %s", ref, never.reason, never.message)
                return Outcome(is_restored=False, reason=never.reason, message=never.message)
            newcomer = replace(newcomer, images=self._images.names(_images_of(value, newcomer)))
            if source is not None:
                found = self._start_from(source, ref, value, newcomer, pod)
            else:
                found = self._succeeding.claim(
                    value, newcomer, node=self._this_node(), is_leaving=lambda: pod.is_leaving
                )
            if isinstance(found, Fresh):
                if found is claims.LEAVING and self._endings.give_back(ref.uid):
                    return Outcome(is_restored=False, reason=found.reason, message=found.message)
                if found.reason in offers.MISFITS and _policy(known) is not OnRestoreFailure.FRESH:
                    outcome = self._hold(ref, known, found, claimed)
                else:
                    outcome = self._let_go(ref, known, found, claimed)
                if found.misfit:
                    self._endings.does_not_fit(ref, found)
                return outcome
            self._latest.note(found)
            claimed = self._claimed(found, ref, asked_at=pod.asked_at)
            self._depot.note(ref.uid, claimed)
            self._bringing.bring(found, ref, seconds=deadline - time.monotonic())
            claimed = replace(claimed, has_come=True)
            return self._go_on(ref, claimed, ends_at=deadline)
        except (ArchitectError, OSError) as error:
            reason = getattr(error, "reason", "") or type(error).__name__
            self._metrics.failures.labels("restore", reason).inc()
            failed = Fresh(reason=reason, message=str(error))
            if reason == objects.CLAIM_LOST and claimed is not None:
                # It has no more right to it than one that never claimed it.
                self._depot.give_back(ref.uid, departed=_left_here(claimed))
                return self._let_go(ref, known, failed, None)
            if known is None:
                raise  # its policy is not known here: the runtime knows it, and follows it
            if _policy(known) is not OnRestoreFailure.FRESH:
                return self._hold(ref, known, failed, claimed)
            return self._let_go(ref, known, failed, claimed)

    def _go_on(self, ref: ObjectRef, decided: Decided, *, ends_at: float) -> Outcome:
        """Announce that the pod goes on, before its first instruction. Raises ArchitectError.

        If this node is lost from here on, nobody knows whether the pod ran, and the memory is not
        given to another one. If it was taken for lost before, it may be another one's already.
        """
        self._depot.note(ref.uid, decided)
        if not decided.is_announced:
            where = where_of(decided)
            patiently(
                lambda: self._latest.change(where, objects.restoring(self._node), claimant=ref.uid),
                seconds=min(ANNOUNCE_SECONDS, ends_at - time.monotonic()),
                step_seconds=API_SECONDS,
                again=(Retryable,),
            )
            self._depot.note(ref.uid, replace(decided, is_announced=True))
        return Outcome(is_restored=True, reason="Restored")

    def _let_go(
        self, ref: ObjectRef, pod: ManagedPod | None, why: Fresh, claimed: Decided | None
    ) -> Outcome:
        """Start the pod fresh; what it claimed is no use to it."""
        decided = _given_up(ref, why, claimed)
        outcome = self._fresh(ref, pod, decided)
        self._endings.give_up(ref.uid, decided)
        return outcome

    def _hold(
        self, ref: ObjectRef, pod: ManagedPod | None, why: Fresh, claimed: Decided | None
    ) -> Outcome:
        """Keep the pod from starting without its memory, and what it claimed for it."""
        decided = replace(_decided(ref, claimed, why), is_held=True)
        self._depot.note(ref.uid, decided)
        if _policy(pod) is OnRestoreFailure.FAIL:  # which is not tried again
            self._depot.drop_half_arrival(ref.uid)
        log.warning("%s is not started: %s: %s", ref, why.reason, why.message)
        self._endings.waits(ref.uid, decided)
        if pod is not None:
            policy = pod.policy.on_restore_failure.value
            self._tell(
                pod,
                Note(
                    reason=names.EVENT_RESTORE_FAILED,
                    text=f"is not started without what came before: {why.reason}: {why.message}; "
                    f"{names.ON_RESTORE_FAILURE} is {policy}, and label {names.FRESH}=true starts "
                    "it fresh",
                    action="Restore",
                    event_type=EventType.WARNING,
                ),
            )
        return _held(decided)

    def _fresh(self, ref: ObjectRef, pod: ManagedPod | None, decided: Decided) -> Outcome:
        """Write down that the pod starts fresh, and say so where somebody hoped for more."""
        outcome = Outcome(is_restored=False, reason=decided.reason, message=decided.message)
        log.info("%s starts fresh: %s: %s", ref, decided.reason, decided.message)
        if pod is not None and decided.reason not in EXPECTED:
            self._tell(
                pod,
                Note(
                    reason=names.EVENT_RESTORE_FAILED,
                    text="starts fresh, without what came before: "
                    f"{decided.reason}: {decided.message}",
                    action="Restore",
                    event_type=EventType.WARNING,
                ),
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
            is_local=checkpoints.peer_of(checkpoint).get("node") == self._node,
            asked_at=asked_at,
            # The Checkpoint of one that starts from another's copy is its own, and ends with it.
            is_announced=spec["trigger"] == Trigger.REQUEST.value,
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
        is_gvisor = podspec.runtime_class(value) == names.RUNTIME_CLASS_GVISOR
        return self._starting.claim(
            ref,
            value,
            newcomer,
            name=source,
            node=self._this_node(is_gvisor=is_gvisor),
            is_leaving=lambda: pod.is_leaving,
        )

    def _this_node(self, *, is_gvisor: bool = False) -> Node:
        needs = self._node_facts.requirements
        return Node(
            architecture=needs.architecture,
            cpu_features=frozenset(needs.cpu_features),
            criu=needs.criu,
            gvisor=self._node_facts.gvisor if is_gvisor else None,
        )


class _Pod:
    """What is known of one pod that comes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked_at = time.time()
        self.outcome: Outcome | None = None
        self.is_leaving = False
        """Set by whoever learns it, without the lock: what comes is not for it any more."""


def _policy(pod: ManagedPod | None) -> OnRestoreFailure:
    return OnRestoreFailure.FRESH if pod is None else pod.policy.on_restore_failure


def _decided(ref: ObjectRef, claimed: Decided | None, why: Fresh) -> Decided:
    empty = Decided(namespace=ref.namespace or "", name=ref.name, reason="")
    return replace(claimed or empty, reason=why.reason, message=why.message)


def _left_here(decided: Decided) -> str | None:
    """Return the pod of this node that left what was claimed; None: it comes from elsewhere."""
    return decided.departed if decided.is_local else None


def _given_up(ref: ObjectRef, why: Fresh, claimed: Decided | None = None) -> Decided:
    """Return that a pod starts fresh, and what it has *claimed* in vain."""
    return replace(_decided(ref, claimed, why), has_given_up=True, is_held=False)


def _held(decided: Decided) -> Outcome:
    return Outcome(is_restored=False, reason=decided.reason, message=decided.message, is_held=True)


def _images_of(value: JsonObject, newcomer: Newcomer) -> dict[str, str]:
    """Return by container what its template calls its image."""
    containers = value["spec"]["containers"]
    return {c["name"]: c["image"] for c in containers if c["name"] in newcomer.containers}
