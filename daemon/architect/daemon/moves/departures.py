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
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from architect.api import names
from architect.api.policy import Migrate, Storage
from architect.core import identity, volumes
from architect.core.errors import ArchitectError, Rejected, Retryable
from architect.core.identity import Identity
from architect.core.wire import text
from architect.daemon import status, succession
from architect.daemon.keeper_link import KeeperLink
from architect.daemon.metrics import Metrics
from architect.daemon.moves import announcing, objects, views
from architect.daemon.moves.announcing import Announcing
from architect.daemon.moves.captures import Captures
from architect.daemon.moves.depot import Depot
from architect.daemon.moves.judging import Judging
from architect.daemon.moves.turns import Turns
from architect.daemon.moves.views import Family
from architect.daemon.patience import patiently
from architect.daemon.pods import ManagedPod
from architect.daemon.pods import read as read_pod
from architect.daemon.shared import SharedReads
from architect.daemon.store import PodStore
from architect.kube import checkpoints, conditions, resources
from architect.kube.api import Api, JsonObject
from architect.kube.checkpoints import CheckpointSpec, Trigger
from architect.kube.events import EventType
from architect.kube.resources import ObjectRef

log = logging.getLogger(__name__)

API_SECONDS: Final = 10.0
"""How long an API server that is away is waited for before anything is done; kubelet's grace
period begins after that."""
API_STEP_SECONDS: Final = 0.2
URGENT_SECONDS: Final = 1.5
"""How long it is waited for in the last minutes of a node, which are worth more."""
MAX_JOBS: Final = 256
"""At once: kubelet's limit is 110 pods a node. What may not be done at once, waits in its job."""

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

    checkpoint: str
    """Its name."""
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


@dataclass(frozen=True, kw_only=True)
class Leaver:
    """A pod that leaves, as it is judged."""

    value: JsonObject
    """As owners are to see it: one that nobody deletes is disrupted."""
    pod: ManagedPod
    who: Identity | None
    trigger: Trigger
    is_evacuated: bool
    """The machine ends at an announced time: nobody is waited for."""


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
        pods: PodStore,
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
        self._pods = pods
        self._captures = captures
        self._turns = turns
        self._metrics = metrics
        self._tell = tell
        self._hand_on = hand_on
        self._is_shutting_down = is_shutting_down
        self._store = store
        self._default_storage = default_storage
        self._judging = Judging(api)
        self._announcing = Announcing(api, node=node, depot=depot)
        self._stays = SharedReads[list[JsonObject]](apart_seconds=STAY_STEP_SECONDS)
        self._lock = threading.Lock()
        self._jobs: dict[str, Future[Outcome]] = {}
        # Every pod has its Checkpoint at once, though its turn may come late: its successor looks
        # for the object within seconds, and waits for the capture much longer.
        self._pool = ThreadPoolExecutor(max_workers=MAX_JOBS, thread_name_prefix="departure")
        self._askers = ThreadPoolExecutor(max_workers=MAX_JOBS, thread_name_prefix="asks")
        self._evacuees: set[str] = set()
        self._refused: dict[str, Outcome] = {}
        self._told: dict[str, CheckpointSpec] = {}
        """Of whom the API hears that there was no time for them."""

    def close(self) -> None:
        """Begin nothing more; what is under way goes on until the process ends."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._askers.shutdown(wait=False, cancel_futures=True)
        self._announcing.close()

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
            if not self._turns.unless_held(pod.uid, note):
                return False
            self._evacuees.add(pod.uid)
            if not is_working:  # else its job finds it as soon as its turn would come
                self._jobs[pod.uid] = self._pool.submit(self._refuse, pod, refused)
        return True

    def _refuse(self, pod: ManagedPod, refused: Outcome) -> Outcome:
        leaver = self._leaver(resources.pod(pod.namespace, pod.name, uid=pod.uid))
        return leaver if isinstance(leaver, Outcome) else self._say_refused(leaver, refused)

    def _say_refused(self, leaver: Leaver, refused: Outcome) -> Outcome:
        if leaver.who is not None:
            spec = self._spec(leaver)
            self._told[leaver.pod.uid] = spec
            self._announcing.refuse(spec, refused.reason, refused.message)
        self._tell(leaver.pod, _refused_note(refused))
        return refused

    def release(self) -> None:
        """Learn that the machine does not end: who has not been saved stays, and is as before."""
        with self._lock:
            told = {uid: spec for uid, spec in self._told.items() if not self._is_working(uid)}
            self._evacuees.clear()
            self._refused.clear()
            self._told.clear()
            for uid in told:
                self._jobs.pop(uid, None)
        self._turns.look_again()
        for uid, spec in told.items():
            pod = self._pods.get(uid)
            if pod is not None and not pod.is_terminating:
                self._announcing.withdraw(spec)

    def forget(self, uid: str) -> None:
        """Let go of the outcome of a pod that is gone; a job under way goes on, and stays one."""
        with self._lock:
            if uid in self._jobs and self._jobs[uid].done():
                del self._jobs[uid]
            if not self._is_working(uid):
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
        leaver = self._leaver(ref)
        if isinstance(leaver, Outcome):
            return leaver
        value, pod, trigger = leaver.value, leaver.pod, leaver.trigger
        if self._hand_on(ref) or not self._has_begun(value):
            log.info("%s leaves before it has begun", ref)
            return Outcome(
                is_captured=False,
                reason="NotBegun",
                message="it has not begun yet",
                is_final=pod.is_terminating,
            )
        refusal = self._settle(leaver)
        if refusal is not None:
            return refusal
        spec, who = self._spec(leaver), leaver.who
        assert who is not None  # nobody without an owner has a successor
        try:
            with self._turns.of(ref.uid, is_wanted=lambda: self._still_leaves(leaver)) as has_turn:
                if not has_turn:
                    return self._let_stay(leaver, spec)
                manifest = self._captures.save(pod, value, who, trigger=trigger)
        except (ArchitectError, OSError) as error:
            if self._depot.has_left(ref.uid):
                # The keeper let it go, and only its answer is lost. All of it lies there: upkeep
                # gives it its name and publishes it, as after an earlier daemon.
                log.warning("%s has left, whatever was heard of that: %s", ref, error)
                return Outcome(is_captured=True, reason="Captured")
            self._give_up(pod, spec, error)
            raise
        # It has left, and nothing undoes that. What fails from here on is done by upkeep.
        self._depot.finish_departure(ref.uid)
        storage = self._storage_of(pod)
        if self._store is not None and storage is Storage.OBJECT_STORE:
            self._store(ref.uid)
        took = time.monotonic() - started
        said = objects.captured(self._node, storage, has_store=self._store is not None)
        self._announcing.publish(spec, manifest, said, took_seconds=took)
        self._tell(pod, _captured_note(took, manifest.total_bytes, trigger))
        stays = None
        # Else the successor waits for the end of this pod: its ordinal, its volume, or its failure.
        is_followed = pod.is_terminating and who.ordinal is None
        if is_followed and not volumes.travelling(value, pod.managed):
            grace = float(value["metadata"].get("deletionGracePeriodSeconds") or 0)
            stays = Stay(
                checkpoint=announcing.ref_of(spec).name,
                family=Family.of(value, who.owner),
                ends_at=started + min(STAY_SECONDS, grace - STAY_MARGIN_SECONDS),
            )
        return Outcome(is_captured=True, reason="Captured", stays=stays)

    def _leaver(self, ref: ObjectRef) -> Leaver | Outcome:
        """Return the pod as it leaves, or why it is not to be looked at."""
        is_evacuated = ref.uid in self._evacuees
        # As the watch has it, where nobody can be waited for.
        value = self._pods.raw(ref.uid) if is_evacuated else None
        if value is None:
            value = _asked(lambda: self._api.find(ref))
        if value is None:
            return Outcome(is_captured=False, reason="PodGone")
        pod = read_pod(value)
        if pod is None:
            return Outcome(is_captured=False, reason="Unmanaged")
        if not pod.is_terminating and (
            pod.is_terminal or not (is_evacuated or _asked(self._is_shutting_down))
        ):
            return Outcome(is_captured=False, reason="Stays", is_final=False)
        if self._depot.runs_again(ref.uid):
            text = "it was saved before its node ended, and has run again since"
            return Outcome(is_captured=False, reason="RunsAgain", message=text)
        if self._depot.departure(ref.uid) is not None or self._depot.has_left(ref.uid):
            # By an earlier daemon; upkeep sees to what it left undone.
            return Outcome(is_captured=True, reason="Captured")
        if pod.is_terminating:
            trigger = succession.trigger_of(value)
        else:
            trigger = Trigger.SPOT_INTERRUPTION if is_evacuated else Trigger.NODE_SHUTDOWN
            value = succession.shut_down(value)
        return Leaver(
            value=value,
            pod=pod,
            who=identity.identity_of(value),
            trigger=trigger,
            is_evacuated=is_evacuated,
        )

    def _settle(self, leaver: Leaver) -> Outcome | None:
        """Ask whether anybody wants the pod's memory, and announce it; return why nobody does.

        Where the node ends soon nobody is waited for: what was not heard in time is taken to be
        yes, since the pod ends in any case, and is announced as soon as somebody listens.
        """
        pod = leaver.pod

        def settle() -> Outcome | None:
            expected = self._judging.judge(leaver.value, pod, leaver.who, leaver.trigger)
            if not expected.is_expected:
                log.info(
                    "%s gets its signal: %s: %s", pod.full_name, expected.reason, expected.message
                )
                return Outcome(
                    is_captured=False,
                    reason=expected.reason,
                    message=expected.message,
                    is_final=pod.is_terminating,
                )
            self._announcing.announce(self._spec(leaver))
            return None

        if not leaver.is_evacuated:
            return _asked(settle)
        if leaver.who is None:
            return Outcome(is_captured=False, reason="NoController", is_final=False)
        # Before anybody is asked: it must not seem announced if this daemon ends.
        self._depot.note_unannounced(pod.uid, leaver.trigger.value)
        try:
            return self._askers.submit(settle).result(URGENT_SECONDS)
        except (NotYet, Retryable) as error:
            log.warning("%s is saved before anybody was heard: %s", pod.full_name, repr(error))
            return None

    def _still_leaves(self, leaver: Leaver) -> bool:
        uid = leaver.pod.uid
        is_released = leaver.is_evacuated and uid not in self._evacuees
        return uid not in self._refused and not (is_released and not leaver.pod.is_terminating)

    def _let_stay(self, leaver: Leaver, spec: CheckpointSpec) -> Outcome:
        """Undo what was announced of a pod for which there is no time, or that stays after all."""
        refused = self._refused.get(leaver.pod.uid)
        if refused is not None:
            return self._say_refused(leaver, refused)
        self._announcing.withdraw(spec)
        return Outcome(is_captured=False, reason="Stays", is_final=False)

    def _spec(self, leaver: Leaver) -> CheckpointSpec:
        who = leaver.who
        return CheckpointSpec(
            pod=resources.pod(leaver.pod.namespace, leaver.pod.name, uid=leaver.pod.uid),
            trigger=leaver.trigger,
            template_hash="" if who is None else who.template_hash,
            template_parts=identity.parts(leaver.value),
            containers=leaver.pod.managed,
            owner=None if who is None else objects.owner_of(who),
            storage=self._storage_of(leaver.pod),
        )

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
            found = next((v for v in listed if v["metadata"]["name"] == stay.checkpoint), None)
            if found is None:
                return
            if conditions.is_true(found, checkpoints.RESTORED):
                left = stay.ends_at - time.monotonic()
                time.sleep(max(0.0, min(FOLLOW_SECONDS, left)))
                return
            time.sleep(STAY_STEP_SECONDS)

    def _give_up(
        self, pod: ManagedPod, spec: CheckpointSpec, error: ArchitectError | OSError
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
        self._announcing.not_captured(spec, reason, str(error))


def _asked(ask: Callable[[], T]) -> T:
    """Return what *ask* returns, also while the API is away for a moment. Raises what it raises."""
    return patiently(ask, seconds=API_SECONDS, step_seconds=API_STEP_SECONDS)


def _captured_note(took: float, image_bytes: int, trigger: Trigger) -> status.Note:
    text = (
        f"saved in {took:.2f} s, {image_bytes / 2**20:.1f} MiB, for the pod that replaces it "
        f"({trigger.value})"
    )
    return status.Note(reason=names.EVENT_CAPTURED, text=text, action="Capture")


def _refused_note(refused: Outcome) -> status.Note:
    return status.Note(
        reason=names.EVENT_CAPTURE_FAILED,
        text="not saved before its machine ends, its successor starts fresh: "
        f"{refused.reason}: {refused.message}",
        action="Capture",
        event_type=EventType.WARNING,
    )
