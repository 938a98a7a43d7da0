"""Saved pods into the object store, behind everything that a pod waits for.

A successor that comes while its predecessor's node is there gets the memory from that node. What
lies in the store is for the node's end, so an upload ends once nobody needs it any more: the pod
goes on, or its Checkpoint is gone; and it does not wait once that end has begun.

Once the end is near, all are *hurried*: nothing is waited for that is not needed, neither time nor
the API server, and what fails is tried again within seconds.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final, TypeVar

from architect.checkpoint.manifest import Manifest
from architect.core.errors import ArchitectError, FormatError, Rejected
from architect.daemon.checkpoint import contents
from architect.daemon.metrics import Metrics
from architect.daemon.moves import objects
from architect.daemon.moves.depot import Depot
from architect.daemon.moves.latest import Latest
from architect.daemon.moves.question import Question
from architect.daemon.vault.sending import UNWANTED
from architect.daemon.vault.service import Vault
from architect.daemon.vault.upload import Uploaded
from architect.kube import checkpoints, conditions
from architect.kube.api import Api
from architect.kube.watch import Backoff

log = logging.getLogger(__name__)

T = TypeVar("T")

STEP_SECONDS: Final = 0.5

MOST_DELAYS: Final = 4.0
"""How many times its delay an upload waits for those who come and leave: not for ever, since the
node may be about to end."""

AGAIN_FIRST_SECONDS: Final = 0.5
AGAIN_MAX_SECONDS: Final = 2.0
"""Until what failed is tried again in a hurry. Else upkeep does it."""


class Storing:
    """Of one node. Safe to use from several threads.

    Each saved pod has a thread while it is on its way, which mostly waits: whose shards are sent,
    and how many at once, is the vault's.
    """

    def __init__(
        self,
        api: Api,
        *,
        depot: Depot,
        latest: Latest,
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
        self._latest = latest
        self._vault = vault
        self._metrics = metrics
        self._delay_seconds = delay_seconds
        self._is_busy = is_busy
        self._is_late = is_late
        self._changed = threading.Condition()
        self._jobs: dict[str, Future[None]] = {}
        self._stored: set[str] = set()
        self._is_hurried = False
        self._is_closed = False

    def begin(self, uid: str) -> None:
        """See to it that the saved pod *uid* lies in the store, unless it goes on before."""
        with self._changed:
            job = self._jobs.get(uid)
            if self._is_closed or (job is not None and not job.done()):
                return
            job = self._jobs[uid] = Future()
        work = functools.partial(self._run, uid, time.monotonic())
        # Not a daemon's thread: at the end of the process what is under way ends with its shard.
        threading.Thread(target=_fulfil, args=(job, work), name=f"store-{uid[:8]}").start()

    def prefer(self, order: Sequence[str]) -> None:
        """Send saved pods in this order of their uids from now on, those under way as well.

        Those that it does not name come after them, as they came. Another order replaces it.
        """
        self._vault.prefer(order)

    def hurry(self, *, is_needed: bool = True) -> None:
        """Wait for nothing that is not needed from now on: the node's end is announced.

        Not *is_needed*: it was withdrawn, and there is time again.
        """
        self._vault.hurry(is_needed=is_needed)
        with self._changed:
            self._is_hurried = is_needed
            self._changed.notify_all()

    def is_stored(self, uid: str) -> bool:
        """Whether this daemon saw the saved pod *uid* lie in the store as a whole.

        Known before the API server is told, and whether it can be told or not.
        """
        with self._changed:
            return uid in self._stored

    def note_stored(self, uid: str) -> None:
        """Learn that pod *uid* lies in the store as a whole: its Checkpoint says so."""
        with self._changed:
            self._stored.add(uid)

    def keep_only(self, uids: set[str]) -> None:
        """Let go of what was noted about all saved pods but *uids*."""
        with self._changed:
            for uid in [u for u, job in self._jobs.items() if job.done() and u not in uids]:
                del self._jobs[uid]
            self._stored &= uids
        self._depot.forget_uploads(but=uids)

    def close(self) -> None:
        """Begin nothing any more; what is under way ends with its shard."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _run(self, uid: str, saved_at: float) -> None:
        while self._is_early(saved_at) and self._is_wanted(uid):
            self._wait(min(self._delay_seconds, STEP_SECONDS))
        backoff = Backoff(first_seconds=AGAIN_FIRST_SECONDS, max_seconds=AGAIN_MAX_SECONDS)
        while True:
            try:
                self._store(uid)
                return
            except (ArchitectError, OSError) as error:
                is_over = isinstance(error, Rejected) and error.reason == UNWANTED
                if is_over or not self._is_wanted(uid):
                    log.info("pod %s is not stored any more: it goes on, or is gone", uid)
                    return
                reason = getattr(error, "reason", "") or type(error).__name__
                self._metrics.failures.labels("store", reason).inc()
                log.error("pod %s is not in the object store: %s", uid, error)
                # A file that is not what it was stays so.
                is_for_good = isinstance(error, (FormatError, FileNotFoundError))
                if is_for_good or not (self._is_hurried or self._is_late()):
                    self._say(uid, objects.not_stored(reason, str(error)))
                    return
            seconds = backoff.next()
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed, seconds)

    def _is_early(self, saved_at: float) -> bool:
        """Whether it is somebody else's time: most of who leave are fetched at once, and gone."""
        if self._is_hurried or self._is_late():
            return False
        waited = time.monotonic() - saved_at
        if waited < self._delay_seconds:
            return True
        return waited < MOST_DELAYS * self._delay_seconds and self._is_busy()

    def _wait(self, seconds: float) -> None:
        """Wait unless it is in a hurry, or nothing is to be done any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_hurried or self._is_closed, seconds)

    def _store(self, uid: str) -> None:
        directory = self._depot.departure(uid)
        if directory is None:
            return
        manifest = contents.read(directory)
        goes_on = self._asked(manifest)
        if goes_on.is_yes():
            return
        found = self._vault.upload(
            directory,
            manifest,
            notes=self._depot.upload_notes(uid),
            is_wanted=lambda: self._is_wanted(uid) and not goes_on.is_yes(),
        )
        self.note_stored(uid)
        self._metrics.store_seconds.observe(found.seconds)
        log.info(
            "pod %s lies in bucket %s: %d bytes for %d, in %.2f s",
            uid, self._vault.bucket, found.stored_bytes, manifest.total_bytes, found.seconds,
        )  # fmt: skip
        self._tell(manifest, found)

    def _tell(self, manifest: Manifest, found: Uploaded) -> None:
        """Have the Checkpoint say where it lies; upkeep does if that cannot be said now."""
        where = objects.of_manifest(manifest)
        bucket = self._vault.bucket
        try:
            said = self._latest.change(
                where,
                objects.stored(bucket, found),
                fields=objects.stored_at(bucket, found),
            )
        except ArchitectError as error:
            log.warning("%s does not say yet that it is stored: %s", where, error)
            return
        if said is None and self._depot.unannounced(manifest.about.pod_uid) is not None:
            log.warning("%s is not there yet, and what it will stand for is", where)

    def _asked(self, manifest: Manifest) -> Question:
        """Ask whether the pod goes on elsewhere; return the question, for as long as it takes.

        Waits for the answer, but not in a hurry: the API server may be away for all the time that
        is left. If it is yes while the pod is being sent, that ends.
        """
        question = Question(
            functools.partial(self._goes_on, manifest),
            name=f"ask-{manifest.id[:8]}",
            answered=self._notify,
        )
        question.begin()
        with self._changed:
            self._changed.wait_for(
                lambda: question.has_answer or self._is_hurried or self._is_closed
            )
        return question

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _goes_on(self, manifest: Manifest) -> bool:
        """Whether a successor runs, or nobody wants one; not, as long as nobody can be asked."""
        if self._depot.unannounced(manifest.about.pod_uid) is not None:
            return False
        try:
            found = self._api.find(objects.of_manifest(manifest))
        except ArchitectError as error:
            log.info("whether pod %s goes on is not known: %s", manifest.about.pod_uid, error)
            return False
        if found is not None:
            self._latest.note(found)
        return found is None or conditions.is_true(found, checkpoints.RESTORED)

    def _say(self, uid: str, said: objects.Said) -> None:
        try:
            directory = self._depot.departure(uid)
            if directory is not None:
                where = objects.of_manifest(contents.read(directory))
                self._latest.change(where, said)
        except (ArchitectError, OSError) as error:
            log.warning("the Checkpoint of pod %s does not say it yet: %s", uid, error)

    def _is_wanted(self, uid: str) -> bool:
        return not self._is_closed and self._depot.departure(uid) is not None


def _fulfil(promise: Future[T], work: Callable[[], T]) -> None:
    """Do *work*, and have *promise* say what came of it."""
    try:
        promise.set_result(work())
    except Exception as error:
        # Not everybody asks for it: it would be a defect that nobody sees.
        log.exception("%s ended", threading.current_thread().name)
        promise.set_exception(error)
