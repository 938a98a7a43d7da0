"""Saved pods into the object store, behind everything that a pod waits for.

A successor that comes while its predecessor's node is there gets the memory from that node. What
lies in the store is for the node's end, so an upload ends once nobody needs it any more: the pod
goes on, or its Checkpoint is gone; and it does not wait once that end has begun.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from architect.checkpoint.manifest import Manifest
from architect.core.errors import ArchitectError, Retryable
from architect.daemon.checkpoint import contents
from architect.daemon.metrics import Metrics
from architect.daemon.moves import objects
from architect.daemon.moves.depot import Depot
from architect.daemon.vault.service import Vault
from architect.daemon.vault.upload import Uploaded
from architect.kube import checkpoints, conditions
from architect.kube.api import Api

log = logging.getLogger(__name__)

AT_ONCE: Final = 4
"""Checkpoints whose upload is under way; how many shards of all of them is the vault's."""

STEP_SECONDS: Final = 0.5

MOST_DELAYS: Final = 4.0
"""How many times its delay an upload waits for those who come and leave: not for ever, since the
node may be about to end."""


class Storing:
    """Of one node. Safe to use from several threads."""

    def __init__(
        self,
        api: Api,
        *,
        depot: Depot,
        vault: Vault,
        metrics: Metrics,
        delay_seconds: float,
        is_busy: Callable[[], bool] = lambda: False,
        is_late: Callable[[], bool] = lambda: False,
    ) -> None:
        """Prepare; *is_busy* tells whether pods leave this node or are fetched from it just now.

        *is_late* tells, at once, whether the node goes away, and what is not stored goes with it.
        """
        self._api = api
        self._depot = depot
        self._vault = vault
        self._metrics = metrics
        self._delay_seconds = delay_seconds
        self._is_busy = is_busy
        self._is_late = is_late
        self._lock = threading.Lock()
        self._jobs: dict[str, Future[None]] = {}
        self._stored: set[str] = set()
        self._pool = ThreadPoolExecutor(AT_ONCE, "storing")
        self._closed = threading.Event()

    def begin(self, uid: str) -> None:
        """See to it that the saved pod *uid* lies in the store, unless it goes on before."""
        with self._lock:
            job = self._jobs.get(uid)
            if self._closed.is_set() or (job is not None and not job.done()):
                return
            self._jobs[uid] = self._pool.submit(self._run, uid, time.monotonic())

    def is_stored(self, uid: str) -> bool:
        """Whether pod *uid* lies in the store as a whole, as far as this daemon knows."""
        return uid in self._stored

    def note_stored(self, uid: str) -> None:
        """Learn that pod *uid* lies in the store as a whole: its Checkpoint says so."""
        with self._lock:
            self._stored.add(uid)

    def keep_only(self, uids: set[str]) -> None:
        """Let go of what was noted about all saved pods but *uids*."""
        with self._lock:
            for uid in [u for u, job in self._jobs.items() if job.done() and u not in uids]:
                del self._jobs[uid]
            self._stored &= uids
        self._depot.forget_uploads(but=uids)

    def close(self) -> None:
        """Begin nothing any more; what is under way ends with its shard."""
        with self._lock:
            self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, uid: str, saved_at: float) -> None:
        while self._is_early(saved_at) and self._is_wanted(uid):
            self._closed.wait(min(self._delay_seconds, STEP_SECONDS))
        try:
            self._store(uid)
        except (ArchitectError, OSError) as error:
            if not self._is_wanted(uid):
                log.info("pod %s is not stored any more: it goes on, or is gone", uid)
                return
            reason = getattr(error, "reason", "") or type(error).__name__
            self._metrics.failures.labels("store", reason).inc()
            log.error("pod %s is not in the object store: %s", uid, error)
            self._say(uid, objects.not_stored(reason, str(error)))

    def _is_early(self, saved_at: float) -> bool:
        """Whether it is somebody else's time: most of who leave are fetched at once, and gone."""
        if self._is_late():
            return False
        waited = time.monotonic() - saved_at
        if waited < self._delay_seconds:
            return True
        return waited < MOST_DELAYS * self._delay_seconds and self._is_busy()

    def _store(self, uid: str) -> None:
        directory = self._depot.departure(uid)
        if directory is None:
            return
        manifest = contents.read(directory)
        if self._goes_on(uid, manifest):
            return
        found = self._vault.upload(
            directory,
            manifest,
            notes=self._depot.upload_notes(uid),
            is_wanted=lambda: self._is_wanted(uid),
        )
        self._metrics.store_seconds.observe(found.seconds)
        log.info(
            "pod %s lies in bucket %s: %d bytes for %d, in %.2f s",
            uid, self._vault.bucket, found.stored_bytes, manifest.total_bytes, found.seconds,
        )  # fmt: skip
        self.note_stored(uid)
        self._tell(uid, manifest, found)

    def _tell(self, uid: str, manifest: Manifest, found: Uploaded) -> None:
        where = objects.of_manifest(manifest)
        try:
            said = objects.change(
                self._api,
                where,
                objects.stored(self._vault.bucket, found),
                fields=objects.stored_at(self._vault.bucket, found),
            )
        except Retryable as error:
            # Upkeep begins again, finds all of it there, and says so; or the operator finds it.
            log.warning("%s does not say yet where it lies: %s", where, error)
            return
        if said is None and self._depot.unannounced(uid) is not None:
            log.warning("%s is not there yet, and what it will stand for is", where)

    def _goes_on(self, uid: str, manifest: Manifest) -> bool:
        """Whether a successor runs, or nobody wants one; not, as long as nobody can be asked."""
        if self._depot.unannounced(uid) is not None:
            return False
        try:
            found = self._api.find(objects.of_manifest(manifest))
        except Retryable:
            return False
        return found is None or conditions.is_true(found, checkpoints.RESTORED)

    def _say(self, uid: str, said: objects.Said) -> None:
        try:
            directory = self._depot.departure(uid)
            if directory is not None:
                where = objects.of_manifest(contents.read(directory))
                objects.change(self._api, where, said)
        except (ArchitectError, OSError) as error:
            log.warning("the Checkpoint of pod %s does not say it yet: %s", uid, error)

    def _is_wanted(self, uid: str) -> bool:
        return not self._closed.is_set() and self._depot.departure(uid) is not None
