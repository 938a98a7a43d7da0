"""What moves have left behind: finished, told, or removed. Read, decide (pure), apply.

A daemon may end at any instruction, and so may the pods, nodes and API servers that it deals with.
What lies on the disk and what the Checkpoints say is compared here now and then, so that nothing
stays half done: no directory that nobody will ask for, no capture in progress for ever.
"""

from __future__ import annotations

import datetime
import enum
import functools
import logging
import time
from collections.abc import Callable
from typing import Final

from architect.api.keeper import PodState
from architect.api.policy import Storage
from architect.checkpoint.manifest import Manifest
from architect.core import clocks
from architect.core.earliest import Earliest
from architect.core.errors import ArchitectError, FormatError
from architect.daemon import offers, owners
from architect.daemon.checkpoint import contents
from architect.daemon.moves import objects
from architect.daemon.moves.arrivals import Arrivals
from architect.daemon.moves.departures import Departures
from architect.daemon.moves.depot import Depot
from architect.daemon.moves.endings import Endings
from architect.daemon.moves.requests import Requests
from architect.daemon.moves.room import EXPIRED, Room
from architect.daemon.moves.storing import Storing
from architect.daemon.registry import Registry
from architect.daemon.store import PodStore
from architect.kube import checkpoints, conditions
from architect.kube.api import Api, JsonObject
from architect.kube.checkpoints import Trigger
from architect.kube.resources import CHECKPOINTS, ObjectRef

log = logging.getLogger(__name__)

SETTLED: Final = frozenset({PodState.AWAKE, PodState.ASLEEP})
OVER: Final = 2.0
"""Times the time to live, after which a Checkpoint goes that has told its end for that long."""
OVERDUE: Final = 3.0
"""After which any node's daemon removes a Checkpoint: its own node is gone."""


class Half(enum.Enum):
    """What becomes of half a departure."""

    FINISH = "finish"
    REMOVE = "remove"


def decide_half(*, is_complete: bool, has_left: bool) -> Half:
    """Return what becomes of a departure whose daemon has ended.

    Once its pod has left, it is the only copy; before that its pod has gone on, and it is old.
    """
    return Half.FINISH if is_complete and has_left else Half.REMOVE


class Saved(enum.Enum):
    """What becomes of a saved pod on this node's disk."""

    KEEP = "keep"
    ANNOUNCE = "announce"
    """Nobody could be told of it yet; then it is published."""
    PUBLISH = "publish"
    EXPIRE = "expire"
    """Nobody has come for it; that is said."""
    OVERTAKE = "overtake"
    """Its pod runs again, without it; that is said."""
    REMOVE = "remove"


def decide_saved(
    checkpoint: JsonObject | None,
    *,
    age_seconds: float,
    ttl_seconds: float,
    is_working: bool,
    runs_again: bool = False,
    is_unannounced: bool = False,
) -> Saved:
    """Return what becomes of what lies here of a pod whose Checkpoint is *checkpoint*.

    *runs_again*: so does that pod, which has gone on since, and so has what it works with.
    *is_unannounced*: that there is no Checkpoint means that none could be made.
    """
    if is_working:
        return Saved.KEEP
    if checkpoint is None and is_unannounced:
        return Saved.REMOVE if runs_again else Saved.ANNOUNCE
    if checkpoint is None or conditions.is_true(checkpoint, checkpoints.RESTORED):
        return Saved.REMOVE
    if runs_again and not (checkpoint.get("status") or {}).get("claimedBy"):
        return Saved.OVERTAKE
    if age_seconds > ttl_seconds:
        return Saved.EXPIRE
    if not conditions.is_true(checkpoint, checkpoints.CAPTURED):
        return Saved.PUBLISH
    return Saved.KEEP


class Listed(enum.Enum):
    """What becomes of a Checkpoint object."""

    KEEP = "keep"
    CUT = "cut"
    """Its capture was begun, and nobody is at it."""
    LOST = "lost"
    """It is said to lie here, and does not."""
    REMOVE = "remove"


def decide_listed(
    checkpoint: JsonObject,
    *,
    node: str,
    is_here: bool,
    is_working: bool,
    is_leaving: bool,
    is_staying: bool = False,
    age_seconds: float,
    ttl_seconds: float,
) -> Listed:
    """Return what becomes of a Checkpoint of a pod that moves; *is_here*: on this node's disk.

    *is_leaving*: its pod has not ended yet. The capture that an earlier daemon began is then begun
    again, by who watches the pods or by the runtime, which has been asked to end it. *is_staying*:
    it runs on this node, which does not end any more.
    """
    if (checkpoint.get("spec") or {}).get("trigger") not in offers.MIGRATIONS:
        return Listed.KEEP
    status = checkpoint.get("status") or {}
    if checkpoints.peer_of(checkpoint).get("node") != node:
        return Listed.REMOVE if age_seconds > OVERDUE * ttl_seconds else Listed.KEEP
    if is_working or is_here:
        return Listed.KEEP
    if not conditions.is_decided(checkpoint, checkpoints.CAPTURED):
        return Listed.KEEP if is_leaving else Listed.CUT
    if is_staying and _was_refused(checkpoint):
        return Listed.REMOVE
    if age_seconds > OVER * ttl_seconds:
        return Listed.REMOVE
    is_stored = conditions.is_true(checkpoint, checkpoints.STORED)
    is_free = not status.get("claimedBy")
    if is_free and not is_stored and conditions.is_true(checkpoint, checkpoints.AVAILABLE):
        return Listed.LOST
    return Listed.KEEP


def _was_refused(checkpoint: JsonObject) -> bool:
    """Whether it says that there was no time to save its pod before its machine ended."""
    trigger = (checkpoint.get("spec") or {}).get("trigger")
    is_captured = not conditions.is_false(checkpoint, checkpoints.CAPTURED)
    return trigger == Trigger.SPOT_INTERRUPTION.value and not is_captured


class Upkeep:
    """Of one node. :meth:`run` belongs to one thread."""

    def __init__(
        self,
        api: Api,
        *,
        node: str,
        depot: Depot,
        room: Room,
        store: PodStore,
        registry: Registry,
        departures: Departures,
        arrivals: Arrivals,
        endings: Endings,
        storing: Storing | None,
        requests: Requests | None,
        is_shutting_down: Callable[[], bool],
        ttl_seconds: float,
        list_interval_seconds: float,
        clock: Callable[[], float] = time.time,
        boot: Callable[[], float] = clocks.boot_seconds,
    ) -> None:
        self._api = api
        self._node = node
        self._depot = depot
        self._room = room
        self._store = store
        self._registry = registry
        self._departures = departures
        self._arrivals = arrivals
        self._endings = endings
        self._storing = storing
        self._requests = requests
        self._is_shutting_down = is_shutting_down
        self._ttl_seconds = ttl_seconds
        self._list_interval_seconds = list_interval_seconds
        self._clock, self._boot = clock, boot
        # Of what was saved, and may be all that there is of a pod.
        self._earliest = Earliest(wall=clock, boot=boot)
        self._listed_at: float | None = None

    def run(self) -> bool:
        """Look once; False: the node's pods are not known yet. Raises ArchitectError, OSError."""
        self._finish_halves()
        if not (self._store.is_synced and self._registry.is_known):
            return False
        if self._requests is not None:
            self._requests.look()
        self._look_at_arrivals()
        saved = self._look_at_saved()
        self._room.keep()
        now = self._boot()
        is_due = self._listed_at is None or now - self._listed_at > self._list_interval_seconds
        if saved or is_due:
            self._look_at_objects()
            self._listed_at = now
        known = self._store.known_uids()
        self._departures.forget_all_but(known)
        self._arrivals.forget_all_but(known)
        return True

    def _finish_halves(self) -> None:
        self._depot.sweep_departures()
        for uid, is_complete in self._depot.half_departures().items():
            half = functools.partial(self._finish_half, uid, is_complete=is_complete)
            self._departures.unless_working(uid, half)

    def _finish_half(self, uid: str, *, is_complete: bool) -> None:
        if decide_half(is_complete=is_complete, has_left=self._depot.has_left(uid)) is Half.FINISH:
            log.info("pod %s was saved by an earlier daemon", uid)
            self._depot.finish_departure(uid)
        else:
            log.info("what an earlier daemon saved of pod %s is half, and goes", uid)
            self._depot.give_up_departure(uid)

    # Pods that left

    def _look_at_saved(self) -> int:
        """Look at each saved pod on the disk; return how many stay."""
        kept = 0
        for uid in self._depot.departures():
            try:
                kept += self._look_at_one(uid)
            except FileNotFoundError as error:
                log.error("the saved pod %s is not whole, and goes: %s", uid, error)
                self._depot.drop_departure(uid)
            except FormatError as error:
                # Another version's, perhaps, which may come back: not ours to judge yet.
                kept += self._keep_unread(uid, error)
        if self._storing is not None:
            self._storing.keep_only(set(self._depot.departures()))
        return kept

    def _keep_unread(self, uid: str, error: FormatError) -> bool:
        age = self._earliest() - self._depot.saved_at(uid)
        if age <= self._ttl_seconds:
            log.warning("the saved pod %s cannot be read by this version: %s", uid, error)
            return True
        log.error("the saved pod %s goes: after %.0f s nobody has read it: %s", uid, age, error)
        self._room.told_gone("Unread")
        self._depot.drop_departure(uid)
        return False

    def _look_at_one(self, uid: str) -> bool:
        directory = self._depot.departure(uid)
        if directory is None:
            return False  # it has just become what came for a pod of this node
        manifest = contents.read(directory)
        where = objects.of_manifest(manifest)
        checkpoint = self._api.find(where)
        decision = decide_saved(
            checkpoint,
            age_seconds=self._earliest() - manifest.about.created.timestamp(),
            ttl_seconds=self._ttl_seconds,
            is_working=self._departures.is_working(uid),
            runs_again=self._depot.runs_again(uid),
            is_unannounced=self._depot.unannounced(uid) is not None,
        )
        if decision is Saved.ANNOUNCE:
            log.info("%s is made, of which nobody could be told", where)
            checkpoint, decision = self._announce(where, uid, manifest), Saved.PUBLISH
        storage = None if checkpoint is None else checkpoints.storage_of(checkpoint)
        if decision is Saved.PUBLISH:
            log.info("%s is published, which an earlier daemon left undone", where)
            fields = checkpoints.captured_status(objects.capture_of(manifest, seconds=None))
            said = objects.captured(self._node, storage, has_store=self._storing is not None)
            objects.change(self._api, where, said, fields=fields)
        if decision is Saved.EXPIRE and checkpoint is not None:
            text = f"nobody has come for it within {self._ttl_seconds:.0f} s"
            log.info("%s goes: %s", where, text)
            if objects.change(self._api, where, objects.over(EXPIRED, text)) is not None:
                self._room.told_expired(checkpoint, text)
        if decision is Saved.OVERTAKE and checkpoint is not None:
            text = f"the pod runs again on node {self._node}, without what was saved of it"
            log.warning("%s goes: %s", where, text)
            # As read: who has claimed it since has it.
            said = objects.over(checkpoints.RUNS_AGAIN, text)
            checkpoints.set_status(self._api, checkpoint, *said, now=self._now())
            self._room.told_gone(checkpoints.RUNS_AGAIN)
        if decision in (Saved.EXPIRE, Saved.OVERTAKE, Saved.REMOVE):
            self._depot.drop_departure(uid)
            return False
        is_stored = checkpoint is not None and conditions.is_true(checkpoint, checkpoints.STORED)
        if self._storing is not None and storage is Storage.OBJECT_STORE:
            if is_stored:
                self._storing.note_stored(uid)
            elif checkpoint is not None:
                self._storing.begin(uid)
        return True

    def _announce(self, where: ObjectRef, uid: str, manifest: Manifest) -> JsonObject:
        spec = objects.spec_of(manifest, trigger=Trigger.SPOT_INTERRUPTION)
        value = self._api.create(where, checkpoints.build(spec))
        self._depot.note_announced(uid)
        return value

    def _look_at_objects(self) -> None:
        here = {*self._depot.departures(), *self._depot.half_departures()}
        now = self._earliest()
        for value in self._api.list(CHECKPOINTS).items:
            uid = ((value.get("spec") or {}).get("podRef") or {}).get("uid", "")
            created = owners.unix_seconds(value["metadata"].get("creationTimestamp"))
            is_undecided = not conditions.is_decided(value, checkpoints.CAPTURED)
            decision = decide_listed(
                value,
                node=self._node,
                is_here=uid in here,
                is_working=self._departures.is_working(uid),
                is_leaving=is_undecided and self._is_leaving(uid),
                is_staying=_was_refused(value) and self._is_staying(uid),
                age_seconds=0.0 if created is None else now - created,
                ttl_seconds=self._ttl_seconds,
            )
            self._apply(value, decision)

    def _is_leaving(self, uid: str) -> bool:
        pod = self._store.get(uid)
        if pod is None or pod.is_terminating:
            return pod is not None
        return not pod.is_terminal and self._is_shutting_down()

    def _is_staying(self, uid: str) -> bool:
        pod = self._store.get(uid)
        is_there = pod is not None and not (pod.is_terminating or pod.is_terminal)
        return is_there and not self._is_shutting_down()

    def _apply(self, value: JsonObject, decision: Listed) -> None:
        if decision is Listed.KEEP:
            return
        ref = ObjectRef.of(CHECKPOINTS, value)
        log.info("%s: %s", ref, decision.value)
        try:
            if decision is Listed.REMOVE:
                self._api.delete(ref, resource_version=value["metadata"]["resourceVersion"])
                return
            if decision is Listed.CUT:
                text = f"the daemon of node {self._node} ended while it saved the pod"
                said = objects.not_captured("DaemonEnded", text)
            else:
                text = f"it does not lie on node {self._node} any more"
                said = (*objects.over("Lost", text), *objects.not_restored(text))
            # As read: whoever has changed it since knows better.
            checkpoints.set_status(self._api, value, *said, now=self._now())
        except ArchitectError as error:
            log.warning("%s: %s", ref, error)

    def _now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._clock(), tz=datetime.UTC)

    # Pods that come

    def _look_at_arrivals(self) -> None:
        for path in self._depot.sweep_arrivals():
            log.info("removed %s, an arrival that was interrupted", path)
        over = {pod.uid for pod in self._store.all() if pod.is_terminal}
        known = self._store.known_uids() - over
        for uid in {*self._depot.arrivals(), *self._depot.all_decided()}:
            if self._arrivals.is_working(uid):
                continue
            if uid in known:
                if self._registry.state(uid) in SETTLED:
                    self._endings.settle(uid, pod=self._store.get(uid))
            else:
                self._arrivals.forget(uid)
