"""The node as the planner is told of it, from what the daemon knows without asking the API server.

What is large about a pod is its memory. Of one that sleeps or is captured it lies on the disk and
is known to the byte. Of one that is awake the keeper tells what a dump would write; beside that an
image has CRIU's tables and the files that go along, which nobody knows before they are packed
(emptyDirs in memory are memory, and counted).

Whether an owner will replace its pod is asked when the pod leaves. Here counts only what no answer
can change: a pod without an owner, of a DaemonSet, with data that stays.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from architect.api.keeper import PodState
from architect.api.policy import Storage
from architect.checkpoint import envelope
from architect.core import identity
from architect.core.errors import ArchitectError, FormatError
from architect.core.obstacles import Obstacle
from architect.daemon import owners, planner, succession
from architect.daemon.checkpoint import contents
from architect.daemon.moves.depot import Depot
from architect.daemon.observation import KeeperPod, Refusal
from architect.daemon.pods import ManagedPod
from architect.daemon.reasons import Kind
from architect.daemon.registry import Registry
from architect.daemon.spot.inputs import Bounds, Pod, Rates, Request, State
from architect.daemon.store import PodStore
from architect.daemon.vault import progress
from architect.kube.api import JsonObject
from architect.kube.checkpoints import Trigger

log = logging.getLogger(__name__)

NO_OBJECT_STORE: Final = "NoObjectStore"
NOT_BEGUN: Final = "NotBegun"
GVISOR: Final = "Gvisor"

_STATES: Final = {
    PodState.AWAKE: State.AWAKE,
    PodState.FALLING: State.AWAKE,
    PodState.ASLEEP: State.ASLEEP,
    PodState.WAKING: State.ASLEEP,
    PodState.FAILED: State.ASLEEP,
    # Its files are being packed and hashed; the departure has its name once that is over.
    PodState.CAPTURED: State.ASLEEP,
}


@dataclass(frozen=True, kw_only=True)
class _Saved:
    """A pod that lies captured on the disk, which nothing changes any more."""

    name: str
    image_bytes: int


@dataclass(frozen=True, kw_only=True)
class _Wishes:
    """What a pod wanted while the API server still told of it."""

    priority: int = 0
    storage: Storage | None = None


class Survey:
    """Of one node. Safe to use from several threads."""

    def __init__(
        self,
        *,
        store: PodStore,
        registry: Registry,
        depot: Depot,
        memory: Callable[[], Mapping[str, int]],
        rates: Callable[[], Rates] = Rates,
        bounds: Callable[[], Bounds] = Bounds,
        cores: int | None = None,
        has_store: bool = True,
        default_storage: Storage = Storage.OBJECT_STORE,
        is_stored: Callable[[str], bool] = lambda _: False,
        is_store_reachable: Callable[[], bool] = lambda: True,
    ) -> None:
        """Prepare. *memory* asks the keeper what a dump of each awake pod would write, by uid.

        *is_stored* tells whether a captured pod lies in the object store as a whole.
        """
        self._store = store
        self._registry = registry
        self._depot = depot
        self._memory = memory
        self._rates = rates
        self._bounds = bounds
        self._cores = cores or os.cpu_count() or 1
        self._has_store = has_store
        self._default_storage = default_storage
        self._is_stored = is_stored
        self._is_store_reachable = is_store_reachable
        self._lock = threading.Lock()
        self._awake_bytes: dict[str, int] = {}
        self._is_deaf = False
        self._saved: dict[str, _Saved] = {}
        self._wishes: dict[str, _Wishes] = {}

    def request(self, deadline_seconds: float, *, pods: Mapping[str, Pod] | None = None) -> Request:
        """Return what the planner is asked, with *deadline_seconds* from now to plan with.

        *pods* are what :meth:`pods` has returned, if it was asked already.
        """
        return Request(
            deadline_seconds=deadline_seconds,
            pods=tuple((self.pods() if pods is None else pods).values()),
            cores=self._cores,
            rates=self._rates(),
            bounds=self._bounds(),
            is_store_reachable=self._is_store_reachable(),
        )

    def pods(self) -> dict[str, Pod]:
        """Return the node's pods whose memory is, or may be, worth saving, by uid.

        Also those that are captured, and of which the API server tells no more.
        """
        with self._lock:
            known = {pod.uid: pod for pod in self._store.all() if not pod.is_terminal}
            left = [uid for uid in self._depot.departures() if not self._depot.runs_again(uid)]
            saved = {uid: found for uid in left if (found := self._saved_of(uid))}
            self._ask()
            self._wishes = {
                **{uid: self._wishes.get(uid, _Wishes()) for uid in saved},
                **{uid: _wishes_of(pod) for uid, pod in known.items()},
            }
            self._saved = saved
            running = {uid: self._running(pod) for uid, pod in known.items() if uid not in saved}
            return {**running, **{uid: self._captured(uid, pod) for uid, pod in saved.items()}}

    def _ask(self) -> None:
        """Learn the sizes of awake pods; what was known stands where nobody answers."""
        try:
            self._awake_bytes, self._is_deaf = dict(self._memory()), False
        except (ArchitectError, OSError) as error:
            if not self._is_deaf:
                log.warning("how large the awake pods are is not known anew: %s", error)
            self._is_deaf = True

    def _saved_of(self, uid: str) -> _Saved | None:
        if uid in self._saved:
            return self._saved[uid]
        directory = self._depot.departure(uid)
        try:
            manifest = None if directory is None else contents.read(directory)
        except (OSError, FormatError) as error:
            log.warning("the saved pod %s cannot be planned with: %s", uid, error)
            return None
        if manifest is None:
            return None
        about = manifest.about
        return _Saved(name=f"{about.namespace}/{about.pod_name}", image_bytes=manifest.total_bytes)

    def _captured(self, uid: str, saved: _Saved) -> Pod:
        wishes = self._wishes[uid]
        noted = progress.shards_noted(self._depot.upload_notes(uid)) * envelope.SHARD_BYTES
        is_stored = self._is_stored(uid)
        return Pod(
            name=saved.name,
            image_bytes=saved.image_bytes,
            stored_bytes=min(saved.image_bytes, noted),
            state=State.STORED if is_stored else State.CAPTURED,
            priority=wishes.priority,
            is_for_store=self._is_for_store(wishes),
            obstacle=None if self._has_store else _no_store(),
        )

    def _running(self, pod: ManagedPod) -> Pod:
        keeper, wishes = self._registry.keeper_pod(pod.uid), self._wishes[pod.uid]
        state = State.AWAKE if keeper is None else _STATES[keeper.state]
        if state is State.ASLEEP and keeper is not None:
            size = keeper.image_bytes
        else:
            size = self._awake_bytes.get(pod.uid, 0) + planner.IMAGE_OVERHEAD_BYTES
        return Pod(
            name=pod.full_name,
            image_bytes=size,
            state=state,
            priority=wishes.priority,
            is_for_store=self._is_for_store(wishes),
            obstacle=self._obstacle(pod, keeper),
        )

    def _is_for_store(self, wishes: _Wishes) -> bool:
        return (wishes.storage or self._default_storage) is Storage.OBJECT_STORE

    def _obstacle(self, pod: ManagedPod, keeper: KeeperPod | None) -> Obstacle | None:
        if not self._has_store:
            return _no_store()
        if keeper is None and self._registry.is_known:
            return Obstacle(NOT_BEGUN, "nothing of it has run yet")
        value = self._store.raw(pod.uid)
        found = None if value is None else why_never(value, pod)
        if found is not None or keeper is None:
            return found
        if self._depot.runs_again(pod.uid):
            return Obstacle("RunsAgain", "it was saved already, and has run again since")
        if keeper.state is PodState.FAILED:
            return Obstacle("RestoreFailed", "its last restore failed: the image is not moved")
        # Tried all the same when it leaves; what it met last time is what it will meet, and what
        # was found in it before a first time.
        if keeper.refused is not None:
            return Obstacle(*_told(keeper.refused))
        return self._found_in(pod.uid) if keeper.state is PodState.AWAKE else None

    def _found_in(self, uid: str) -> Obstacle | None:
        for reason in self._registry.verdict(uid) or ():
            if reason.kind is Kind.CANNOT_SLEEP:
                return Obstacle(reason.kind.value, str(reason))
        return None


def why_never(value: JsonObject, pod: ManagedPod) -> Obstacle | None:
    """Return why *pod* cannot be saved for a successor, as far as it tells itself; None: it may.

    *value* is the same pod as the API server sent it.
    """
    if pod.is_gvisor:
        return Obstacle(GVISOR, "a pod of gVisor is not saved for its successor")
    try:
        return _never(value, pod)
    except FormatError as error:
        return Obstacle("Malformed", str(error))


def _never(value: JsonObject, pod: ManagedPod) -> Obstacle | None:
    trigger = succession.trigger_of(value) if pod.is_terminating else Trigger.NODE_SHUTDOWN
    refusal = (
        succession.refused_by_policy(value, pod.policy.migrate, trigger)
        or owners.never(value)
        or succession.refused_by_volumes(value, pod.managed)
    )
    if refusal is not None:
        return Obstacle(refusal.reason, refusal.message)
    who = identity.identity_of(value)
    if who is None:
        return Obstacle("NoOrdinal", "its owner counts its pods, and its name has no number")
    if who.owner.group_kind == identity.JOB and who.ordinal is None:
        text = f"Job {who.owner.name} is not indexed: each of its pods is another one"
        return Obstacle("JobNotIndexed", text)
    return None


def _told(refusal: Refusal) -> tuple[str, str]:
    return refusal.reason, refusal.message or "its memory could not be dumped"


def _wishes_of(pod: ManagedPod) -> _Wishes:
    return _Wishes(priority=pod.priority, storage=pod.policy.storage)


def _no_store() -> Obstacle:
    return Obstacle(NO_OBJECT_STORE, "no object store is configured")
