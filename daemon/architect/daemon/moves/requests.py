"""Running pods that are copied because somebody asked: a PersistentCheckpoint of this node's pod.

The operator has chosen the pod and said so (condition ``Accepted``). Here it is frozen, copied and
woken, and the copy goes to the object store, from where pods start. What can be tried again without
freezing the pod anew is tried again for as long as the object is there; a capture that failed has
failed, since its user knows better than we when the pod may be frozen once more.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from architect.api import names
from architect.core import durations, identity
from architect.core.errors import ArchitectError, FormatError, Rejected, Retryable
from architect.daemon.checkpoint import contents
from architect.daemon.keeper_link import KeeperLink
from architect.daemon.metrics import Metrics
from architect.daemon.moves import objects
from architect.daemon.moves.captures import Captures, Copied
from architect.daemon.moves.copies import Copies
from architect.daemon.moves.departures import Tell
from architect.daemon.moves.turns import Turns
from architect.daemon.patience import patiently
from architect.daemon.pods import ManagedPod
from architect.daemon.pods import read as read_pod
from architect.daemon.vault.service import Vault
from architect.kube import checkpoints, conditions, resources
from architect.kube.api import Api, JsonObject
from architect.kube.events import EventType, Note
from architect.kube.resources import PERSISTENT_CHECKPOINTS, ObjectRef
from architect.kube.watch import Change, ChangeKind, Snapshot, Watcher

log = logging.getLogger(__name__)

WORKERS: Final = 4
"""Copies of this node that are made, and as many that are uploaded, at once; how many pods are
frozen is said elsewhere, since those that leave count as well."""
NOT_KNOWN: Final[Mapping[str, float]] = MappingProxyType({})
"""Durations of what an earlier daemon did."""
TOLD_SECONDS: Final = 60.0
"""How long an API server that is away is tried with what must not be found out once more."""
TOLD_STEP_SECONDS: Final = 0.5
NOT_READY: Final = "NotReady"
"""What the keeper says of a pod whose probes do not succeed: it may hear of that later than the API
server, and a pod that is copied is not in a hurry."""
READY_SECONDS: Final = 60.0
READY_STEP_SECONDS: Final = 1.0

REFUSED_SECONDS: Final = 30.0
"""Until a watch that the API server refuses is tried again."""


class Step(enum.Enum):
    """What is to be done next for a PersistentCheckpoint."""

    NOTHING = "nothing"
    CAPTURE = "capture"
    STORE = "store"
    LOSE = "lose"
    """It was copied, and the copy is not there any more: say so."""
    DROP = "drop"
    """A copy lies here that nobody needs."""


def decide(value: JsonObject, *, node: str, has_copy: bool) -> Step:
    """Return what is next for PersistentCheckpoint *value*; *has_copy*: on this node's disk."""
    found = value.get("status") or {}
    is_over = (
        bool(value["metadata"].get("deletionTimestamp"))
        or conditions.is_true(value, checkpoints.FAILED)
        or conditions.is_true(value, checkpoints.AVAILABLE)
    )
    if is_over or found.get("node") != node:
        return Step.DROP if has_copy else Step.NOTHING
    if not conditions.is_true(value, checkpoints.ACCEPTED) or not found.get("podRef"):
        return Step.DROP if has_copy else Step.NOTHING
    if has_copy:
        return Step.STORE
    return Step.LOSE if conditions.is_true(value, checkpoints.CAPTURED) else Step.CAPTURE


class Requests:
    """Of one node. :meth:`run` belongs to a thread, the rest to any."""

    def __init__(
        self,
        api: Api,
        *,
        node: str,
        keeper: KeeperLink,
        captures: Captures,
        copies: Copies,
        turns: Turns,
        vault: Vault,
        metrics: Metrics,
        tell: Tell,
    ) -> None:
        self._api = api
        self._node = node
        self._keeper = keeper
        self._captures = captures
        self._copies = copies
        self._turns = turns
        self._vault = vault
        self._metrics = metrics
        self._tell = tell
        self._watcher = Watcher(api, PERSISTENT_CHECKPOINTS)
        self._closed = threading.Event()
        self._lock = threading.RLock()
        self._known: dict[str, JsonObject] | None = None
        """Every PersistentCheckpoint by uid; None until they are listed."""
        self._jobs: dict[str, Future[None]] = {}
        self._capturers = ThreadPoolExecutor(WORKERS, "request")
        self._uploaders = ThreadPoolExecutor(WORKERS, "request-upload")

    def run(self, stop: threading.Event) -> None:
        """Follow the objects until :meth:`close`."""
        while not stop.is_set():
            try:
                for item in self._watcher:
                    self.take(item)
            except (ArchitectError, OSError) as error:
                log.error("PersistentCheckpoints are not followed: %s", error)
                stop.wait(REFUSED_SECONDS)

    def close(self) -> None:
        """Begin nothing any more; what is under way ends with its shard, or its pod awake."""
        self._closed.set()
        self._watcher.stop()
        for pool in (self._capturers, self._uploaders):
            pool.shutdown(wait=False, cancel_futures=True)

    def take(self, item: Snapshot | Change) -> None:
        """Learn of objects, and begin what they ask for; what was begun is :meth:`look`'s."""
        with self._lock:
            if isinstance(item, Snapshot):
                self._known = {value["metadata"]["uid"]: value for value in item.objects}
                begun = list(self._known)
            else:
                uid = item.object["metadata"]["uid"]
                known = self._known = self._known or {}
                if item.kind is ChangeKind.DELETED:
                    known.pop(uid, None)
                else:
                    known[uid] = item.object
                begun = [uid]
            for uid in begun:
                if uid in self._known and uid not in self._jobs:
                    self._advance(uid)

    def look(self) -> None:
        """Go on with what was left undone, and remove what nobody asks for. Raises OSError."""
        with self._lock:
            if self._known is None or self._closed.is_set():
                return
            for uid in [u for u, job in self._jobs.items() if job.done() and u not in self._known]:
                del self._jobs[uid]
            working = {uid for uid in self._jobs if self.is_working(uid)}
            self._copies.sweep(but=working)
            for uid in self._copies.all() - self._known.keys() - working:
                log.info("the copy for PersistentCheckpoint %s goes: nobody asks for it", uid)
                self._copies.drop(uid)
            for uid in self._known:
                self._advance(uid)

    def is_working(self, uid: str) -> bool:
        """Whether something is done for PersistentCheckpoint *uid*."""
        with self._lock:
            job = self._jobs.get(uid)
            return job is not None and not job.done()

    def _advance(self, uid: str) -> None:
        assert self._known is not None
        if self.is_working(uid) or self._closed.is_set():
            return
        value = self._known[uid]
        step = decide(value, node=self._node, has_copy=self._copies.find(uid) is not None)
        match step:
            case Step.CAPTURE:
                self._begin(self._capturers, self._capture, value)
            case Step.STORE:
                self._begin(self._uploaders, self._store, value)
            case Step.LOSE:
                self._begin(self._uploaders, self._lose, value)
            case Step.DROP:
                self._copies.drop(uid)

    def _begin(
        self, pool: ThreadPoolExecutor, work: Callable[[JsonObject], object], value: JsonObject
    ) -> None:
        where = ObjectRef.of(PERSISTENT_CHECKPOINTS, value)

        def run() -> None:
            try:
                work(value)
            except (ArchitectError, OSError) as error:
                log.warning("%s: tried again later: %s", where, error)
            except Exception:
                # Nobody asks for what this returns: it would be a defect that nobody sees.
                log.exception("%s: tried again later", where)

        with contextlib.suppress(RuntimeError):  # the daemon is ending: the next one does it
            self._jobs[where.uid] = pool.submit(run)

    # The capture

    def _capture(self, known: JsonObject) -> None:
        """Copy the pod, and begin the upload. Raises Retryable before the pod was touched."""
        value = self._now(known, Step.CAPTURE)
        if value is None:
            return
        uid, chosen = value["metadata"]["uid"], value["status"]["podRef"]
        ref = resources.pod(value["metadata"]["namespace"], chosen["name"], uid=chosen["uid"])
        pod: ManagedPod | None = None

        def once() -> Copied | None:
            nonlocal pod
            # Read once its turn has come: it may have left meanwhile.
            found = self._api.find(ref)
            pod = self._checked(found, ref)
            assert found is not None
            self._keeper.status(pod.uid)
            template_hash = self._announce(value, found, pod)
            if template_hash is None:
                return None
            return self._copy(pod, found, id=uid, template_hash=template_hash)

        try:
            copied = self._once_ready(ref, once)
        except Retryable:
            raise
        except (ArchitectError, OSError) as error:
            self._failed(value, pod, error)
            return
        if copied is None or pod is None:
            return
        self._metrics.freeze_seconds.observe(copied.frozen_seconds)
        self._tell(pod, _copied_note(copied, value))
        log.info("%s is copied for %s", ref, ObjectRef.of(PERSISTENT_CHECKPOINTS, value))
        took = {"freeze": copied.frozen_seconds, "capture": copied.seconds}
        with self._lock:
            store = functools.partial(self._store, took=took)
            self._begin(self._uploaders, store, value)

    def _once_ready(self, ref: ObjectRef, once: Callable[[], Copied | None]) -> Copied | None:
        """Return what *once* returns, called in the pod's turn, and anew until its probes succeed.

        Between two calls it has no turn: others are saved meanwhile, and it as well if it leaves.
        None: it is not wanted, or the daemon is ending.
        """
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                with self._turns.of(ref.uid):
                    return once()
            except Rejected as error:
                if error.reason != NOT_READY or time.monotonic() > deadline:
                    raise
            if self._closed.wait(READY_STEP_SECONDS):
                return None

    def _checked(self, found: JsonObject | None, ref: ObjectRef) -> ManagedPod:
        """Return the pod if it can be copied. Raises Rejected, FormatError."""
        pod = None if found is None else read_pod(found)
        if found is None:
            raise Rejected(f"{ref} is gone", reason="PodGone")
        if pod is None:
            raise Rejected(f"{ref} is not managed", reason="PodNotManaged")
        if pod.is_terminating:
            raise Rejected(f"{ref} is being deleted", reason="PodLeaves")
        if pod.is_terminal:
            raise Rejected(f"{ref} has ended", reason="PodFinished")
        return pod

    def _announce(self, value: JsonObject, found: JsonObject, pod: ManagedPod) -> str | None:
        """Say what will be copied, before it is; return the template's hash, None: unwanted."""
        template_hash = identity.template_hash(found)
        fields = {
            "templateHash": template_hash,
            "templateParts": identity.parts(found),
            "containers": list(pod.managed),
        }
        is_there = self._say(value, objects.copying(self._node), fields=fields) is not None
        return template_hash if is_there and self._is_wanted(value["metadata"]["uid"]) else None

    def _copy(self, pod: ManagedPod, found: JsonObject, *, id: str, template_hash: str) -> Copied:
        try:
            return self._captures.copy(pod, found, id=id, template_hash=template_hash)
        except Retryable as error:
            # The pod was frozen, several times: not for ever.
            raise Rejected(str(error), reason=type(error).__name__) from error

    def _failed(
        self, value: JsonObject, pod: ManagedPod | None, error: ArchitectError | OSError
    ) -> None:
        """Say that the pod was not copied, for good. Raises ArchitectError: then it is tried anew.

        The pod is awake again by now, or whoever restores it says why it is not.
        """
        reason = getattr(error, "reason", "") or type(error).__name__
        where = ObjectRef.of(PERSISTENT_CHECKPOINTS, value)
        log.error("%s: the pod is not copied: %s", where, error)
        self._metrics.failures.labels("capture", reason).inc()
        if pod is not None:
            text = f"not copied for PersistentCheckpoint {where.name}: {error}"
            self._tell(
                pod,
                Note(
                    reason=names.EVENT_CAPTURE_FAILED,
                    text=text,
                    action="Capture",
                    event_type=EventType.WARNING,
                ),
            )
        patiently(
            lambda: self._say(value, objects.not_copied(reason, str(error))),
            seconds=TOLD_SECONDS,
            step_seconds=TOLD_STEP_SECONDS,
        )

    # The upload

    def _store(self, known: JsonObject, *, took: Mapping[str, float] = NOT_KNOWN) -> None:
        """Upload a copy, say so, and remove it here. Raises ArchitectError: it is tried again."""
        value: JsonObject | None = known
        with contextlib.suppress(Retryable):  # an API server that is away keeps nothing back
            value = self._now(known, Step.STORE)
        uid = known["metadata"]["uid"]
        directory = self._copies.find(uid)
        if value is None or directory is None:
            return
        try:
            manifest = contents.read(directory)
            fields = objects.copied_fields(manifest, durations_seconds=took)
            said = objects.copied(self._node)
            if not conditions.is_true(value, checkpoints.CAPTURED):
                with contextlib.suppress(Retryable):
                    self._say(value, said, fields=fields)
            found = self._vault.upload(
                directory,
                manifest,
                notes=self._copies.notes(uid),
                is_wanted=lambda: self._is_wanted(uid),
            )
        except (ArchitectError, OSError) as error:
            if not self._is_wanted(uid):
                log.info("the copy for PersistentCheckpoint %s is not wanted any more", uid)
                return
            is_of_the_copy = isinstance(error, (FormatError, FileNotFoundError))
            if is_of_the_copy and (damage := _damage(directory)) is not None:
                self._say(value, objects.lost(f"the copy is damaged: {damage}"))
                self._copies.drop(uid)
                return
            reason = getattr(error, "reason", "") or type(error).__name__
            self._metrics.failures.labels("store", reason).inc()
            with contextlib.suppress(ArchitectError):
                self._say(value, objects.not_startable(reason, str(error)))
            raise
        self._metrics.store_seconds.observe(found.seconds)
        bucket, where = self._vault.bucket, objects.stored_at(self._vault.bucket, found)
        fields["durations"] = {**fields.get("durations", {}), "upload": f"{found.seconds:.3f}s"}
        self._say(value, (*said, *objects.startable(bucket, found)), fields={**fields, **where})
        self._copies.drop(uid)

    # Both

    def _now(self, known: JsonObject, step: Step) -> JsonObject | None:
        """Return the object as it is, if *step* is still to be done. Raises ArchitectError.

        What the watch told may lag behind what was said by ourselves a moment ago.
        """
        found = self._api.find(ObjectRef.of(PERSISTENT_CHECKPOINTS, known))
        if found is None:
            return None
        has_copy = self._copies.find(found["metadata"]["uid"]) is not None
        return found if decide(found, node=self._node, has_copy=has_copy) is step else None

    def _lose(self, known: JsonObject) -> None:
        if (value := self._now(known, Step.LOSE)) is not None:
            self._say(value, objects.lost(f"it does not lie on node {self._node} any more"))

    def _say(
        self,
        value: JsonObject,
        said: objects.Said,
        *,
        fields: dict[str, Any] | None = None,
    ) -> JsonObject | None:
        """Write into the object; None if it is gone, or another one. Raises ArchitectError."""
        return objects.change(
            self._api, ObjectRef.of(PERSISTENT_CHECKPOINTS, value), said, fields=fields
        )

    def _is_wanted(self, uid: str) -> bool:
        with self._lock:
            value = (self._known or {}).get(uid)
        is_there = value is not None and not value["metadata"].get("deletionTimestamp")
        return is_there and not self._closed.is_set()


def _damage(directory: Path) -> str | None:
    """Return what is wrong for good with a copy on the disk; None: nothing, or nobody knows."""
    try:
        manifest = contents.read(directory)
    except FileNotFoundError as error:
        return str(error)
    except (FormatError, OSError):
        return None  # another version's, perhaps, which may come back: not ours to judge
    try:
        contents.verify(directory, manifest)
    except (FormatError, FileNotFoundError) as error:
        return str(error)
    except OSError:
        return None
    return None


def _copied_note(copied: Copied, value: JsonObject) -> Note:
    frozen = durations.render(copied.frozen_seconds)
    text = (
        f"copied in {copied.seconds:.2f} s, of which it stood still for {frozen}, "
        f"{copied.manifest.total_bytes / 2**20:.1f} MiB, "
        f"for PersistentCheckpoint {value['metadata']['name']}"
    )
    return Note(reason=names.EVENT_CAPTURED, text=text, action="Capture")
