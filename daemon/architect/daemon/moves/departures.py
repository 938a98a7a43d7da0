"""Pods that leave this node: saved for their successors, before they get any signal.

The runtime asks when an engine is about to signal a container, and the watch tells of a pod that is
being deleted; whichever comes first starts the one job of that pod, and both learn its outcome. Of
a pod that nobody deletes the node is asked whether it shuts down: then kubelet ends it for good.
Where the machine ends at a time that was announced, pods are told to leave (:meth:`evacuate`), or
that there is no time for them (:meth:`refuse`). Until the job has made the pod's end final
(``depart``) every failure undoes it: the pod is woken and gets its signal, as if nobody had tried.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from architect.api import names
from architect.api.policy import Migrate, Storage
from architect.checkpoint.manifest import Manifest
from architect.core import volumes
from architect.core.errors import ArchitectError, Rejected, Retryable
from architect.core.wire import text
from architect.daemon.keeper_link import KeeperLink
from architect.daemon.metrics import Metrics
from architect.daemon.moves import announcing, objects
from architect.daemon.moves.announcing import Announcing
from architect.daemon.moves.captures import Captures
from architect.daemon.moves.depot import Depot
from architect.daemon.moves.latest import Latest
from architect.daemon.moves.leavers import STAYS, Leaver, Leavers, Outcome
from architect.daemon.moves.lingering import Lingering, Stay, stay_of
from architect.daemon.moves.turns import Turns
from architect.daemon.moves.views import Family
from architect.daemon.pods import ManagedPod
from architect.daemon.spot.learning import Measure
from architect.daemon.spot.rates import Known
from architect.daemon.store import PodStore
from architect.kube import resources
from architect.kube.api import Api
from architect.kube.checkpoints import CheckpointSpec, Trigger
from architect.kube.events import EventType, Note
from architect.kube.resources import ObjectRef

log = logging.getLogger(__name__)

MAX_JOBS: Final = 256
"""At once: kubelet's limit is 110 pods a node. What may not be done at once, waits in its job."""
SMALL_BYTES: Final = 32 * 1024**2
"""What captures of less take, they take whatever their size: dumped and hashed in 0.1 s."""

Tell = Callable[[ManagedPod, Note], None]


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
        latest: Latest,
        pods: PodStore,
        rates: Known,
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
        self._node = node
        self._depot = depot
        self._pods = pods
        self._rates = rates
        self._captures = captures
        self._turns = turns
        self._metrics = metrics
        self._tell = tell
        self._store = store
        self._announcing = Announcing(api, node=node, depot=depot, latest=latest)
        self._leavers = Leavers(
            api,
            keeper=keeper,
            depot=depot,
            pods=pods,
            announcing=self._announcing,
            hand_on=hand_on,
            is_shutting_down=is_shutting_down,
            default_storage=Storage.NODE if store is None else default_storage,
        )
        self._lingering = Lingering(api)
        self._lock = threading.Lock()
        self._jobs: dict[str, Future[Outcome]] = {}
        # Every pod has its Checkpoint at once, though its turn may come late: its successor looks
        # for the object within seconds, and waits for the capture much longer.
        self._pool = ThreadPoolExecutor(max_workers=MAX_JOBS, thread_name_prefix="departure")
        self._saved: set[str] = set()
        """Those who have had their turn; what their jobs still do is told afterwards."""
        self._evacuees: set[str] = set()
        self._refused: dict[str, Outcome] = {}
        self._told: dict[str, CheckpointSpec] = {}
        """Of whom the API hears that there was no time for them."""

    def close(self) -> None:
        """Begin nothing more; what is under way goes on until the process ends."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._leavers.close()
        self._announcing.close()

    def leaving(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Answer the runtime: is the pod saved? Waits for the end of the job. Raises Rejected."""
        ref = resources.pod(
            text(arguments, "namespace"), text(arguments, "pod_name"), uid=text(arguments, "pod")
        )
        was_working = self.is_working(ref.uid)
        outcome = self._job(ref).result()
        if was_working and outcome.reason == STAYS:
            # It may have looked before the pod was deleted, or was to be let stay until then.
            outcome = self._job(ref).result()
        if outcome.stays is not None:
            self._lingering.wait(outcome.stays)
        return {
            "captured": outcome.is_captured,
            "reason": outcome.reason,
            "message": outcome.message,
        }

    def notice(self, pod: ManagedPod) -> None:
        """Learn that a pod is being deleted: it is saved before its containers are ended."""
        if pod.policy.migrate is not Migrate.NEVER:
            self._job(resources.pod(pod.namespace, pod.name, uid=pod.uid))

    def evacuate(self, pod: ManagedPod) -> None:
        """Have a pod saved, though nobody deletes it: its machine is about to end.

        Its turn comes by the order that the turns prefer. Told again it does nothing.
        """
        with self._lock:
            if pod.uid in self._refused:
                return
            self._evacuees.add(pod.uid)
        self._job(resources.pod(pod.namespace, pod.name, uid=pod.uid))

    def refuse(self, pod: ManagedPod, *, reason: str, message: str) -> bool:
        """Have a pod end unsaved, with its signal, and its Checkpoint say why; whether it will.

        Not one whose turn has come: it is being saved, or is saved. Returns at once.
        """
        refused = Outcome(is_captured=False, reason=reason, message=message)

        def note() -> None:
            self._refused[pod.uid] = refused

        with self._lock:
            if pod.uid in self._refused:
                return True
            job = self._jobs.get(pod.uid)
            is_working = self._is_working(pod.uid)
            if job is not None and not is_working and job.result().is_final:
                return False
            if pod.uid in self._saved:
                return False
            if not self._turns.unless_held(pod.uid, note):
                return False
            self._evacuees.add(pod.uid)
            if not is_working:  # else its job finds it as soon as its turn would come
                self._jobs[pod.uid] = self._pool.submit(self._refuse, pod, refused)
        return True

    def _refuse(self, pod: ManagedPod, refused: Outcome) -> Outcome:
        leaver = self._look(resources.pod(pod.namespace, pod.name, uid=pod.uid))
        return leaver if isinstance(leaver, Outcome) else self._say_refused(leaver, refused)

    def _say_refused(self, leaver: Leaver, refused: Outcome) -> Outcome:
        uid, has_successor = leaver.pod.uid, leaver.who is not None
        if has_successor:
            self._announcing.refuse(leaver.spec, refused.reason, refused.message)
        with self._lock:
            is_released = uid not in self._refused
            if has_successor and not is_released:
                self._told[uid] = leaver.spec
        if is_released:  # meanwhile
            if has_successor:
                self._withdraw(uid, leaver.spec)
            return Outcome(is_captured=False, reason=STAYS, is_final=False)
        self._tell(leaver.pod, _refused_note(refused))
        return refused

    def release(self) -> None:
        """Learn that the machine does not end: who has not been saved stays, and is as before."""
        with self._lock:
            told = dict(self._told)
            self._evacuees.clear()
            self._refused.clear()
            self._told.clear()
            for uid in told:
                self._jobs.pop(uid, None)
        self._turns.look_again()
        for uid, spec in told.items():
            self._withdraw(uid, spec)

    def _withdraw(self, uid: str, spec: CheckpointSpec) -> None:
        pod = self._pods.get(uid)
        if pod is not None and not pod.is_terminating:
            self._announcing.withdraw(spec)

    def forget(self, uid: str) -> None:
        """Let go of the outcome of a pod that is gone; a job under way goes on, and stays one."""
        with self._lock:
            if uid in self._jobs and self._jobs[uid].done():
                del self._jobs[uid]
            if not self._is_working(uid):
                self._saved.discard(uid)
                self._evacuees.discard(uid)
                self._refused.pop(uid, None)
                self._told.pop(uid, None)

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
        leaver = self._look(ref)
        if isinstance(leaver, Outcome):
            return leaver
        refusal = self._leavers.settle(leaver)
        if refusal is not None:
            return refusal
        try:
            with self._turns.of(ref.uid, is_wanted=lambda: self._still_leaves(leaver)) as has_turn:
                if not has_turn:
                    return self._let_stay(leaver)
                manifest = self._save(leaver)
                with self._lock:  # before its turn is over: then nothing says so
                    self._saved.add(ref.uid)
        except (ArchitectError, OSError) as error:
            if self._depot.has_left(ref.uid):
                # The keeper let it go, and only its answer is lost. All of it lies there: upkeep
                # gives it its name and publishes it, as after an earlier daemon.
                log.warning("%s has left, whatever was heard of that: %s", ref, error)
                return Outcome(is_captured=True, reason="Captured")
            self._give_up(leaver, error)
            raise
        # It has left, and nothing undoes that. What fails from here on is done by upkeep.
        self._depot.finish_departure(ref.uid)
        if self._store is not None and leaver.storage is Storage.OBJECT_STORE:
            self._store(ref.uid)
        took = time.monotonic() - started
        said = objects.captured(self._node, leaver.storage, has_store=self._store is not None)
        self._announcing.publish(leaver.spec, manifest, said, took_seconds=took)
        self._tell(leaver.pod, _captured_note(took, manifest.total_bytes, leaver.trigger))
        stays = _stay_of(leaver, started_at=started)
        return Outcome(is_captured=True, reason="Captured", stays=stays)

    def _look(self, ref: ObjectRef) -> Leaver | Outcome:
        return self._leavers.look(ref, is_evacuated=ref.uid in self._evacuees)

    def _save(self, leaver: Leaver) -> Manifest:
        began, who = time.monotonic(), leaver.who
        assert who is not None  # nobody without an owner has a successor
        manifest = self._captures.save(leaver.pod, leaver.value, who, trigger=leaver.trigger)
        if manifest.total_bytes < SMALL_BYTES:
            self._rates.take(Measure.CAPTURE_FIXED, time.monotonic() - began)
        return manifest

    def _still_leaves(self, leaver: Leaver) -> bool:
        uid = leaver.pod.uid
        is_released = leaver.is_evacuated and uid not in self._evacuees
        return uid not in self._refused and not (is_released and not leaver.pod.is_terminating)

    def _let_stay(self, leaver: Leaver) -> Outcome:
        """Undo what was announced of a pod for which there is no time, or that stays after all."""
        refused = self._refused.get(leaver.pod.uid)
        if refused is not None:
            return self._say_refused(leaver, refused)
        self._announcing.withdraw(leaver.spec)
        return Outcome(is_captured=False, reason=STAYS, is_final=False)

    def _give_up(self, leaver: Leaver, error: ArchitectError | OSError) -> None:
        """Have the pod awake again, so that its signal reaches it, and say why."""
        self._captures.undo(leaver.pod)
        self._tell(
            leaver.pod,
            Note(
                reason=names.EVENT_CAPTURE_FAILED,
                text=f"not saved, its successor starts fresh: {error}",
                action="Capture",
                event_type=EventType.WARNING,
            ),
        )
        reason = getattr(error, "reason", "") or type(error).__name__
        self._announcing.not_captured(leaver.spec, reason, str(error))


def _stay_of(leaver: Leaver, *, started_at: float) -> Stay | None:
    """Return how long the containers of the saved pod stay; None: they end at once.

    There the successor waits for the end of this pod: its ordinal, its volume, or its failure.
    """
    who, value = leaver.who, leaver.value
    is_followed = leaver.pod.is_terminating and who is not None and who.ordinal is None
    if who is None or not is_followed or volumes.travelling(value, leaver.pod.managed):
        return None
    return stay_of(
        announcing.ref_of(leaver.spec).name,
        Family.of(value, who.owner),
        started_at=started_at,
        grace_seconds=float(value["metadata"].get("deletionGracePeriodSeconds") or 0),
    )


def _captured_note(took: float, image_bytes: int, trigger: Trigger) -> Note:
    text = (
        f"saved in {took:.2f} s, {image_bytes / 2**20:.1f} MiB, for the pod that replaces it "
        f"({trigger.value})"
    )
    return Note(reason=names.EVENT_CAPTURED, text=text, action="Capture")


def _refused_note(refused: Outcome) -> Note:
    return Note(
        reason=names.EVENT_CAPTURE_FAILED,
        text="not saved before its machine ends, its successor starts fresh: "
        f"{refused.reason}: {refused.message}",
        action="Capture",
        event_type=EventType.WARNING,
    )
