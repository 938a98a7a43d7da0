"""How it ended for a pod that came: said once in its Checkpoint, and what came for it is removed.

What nobody could be told, since nobody listened, is found on the disk and told later.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from architect.api import names
from architect.core import durations
from architect.core.errors import ArchitectError, Rejected
from architect.daemon.claims import Fresh
from architect.daemon.moves import objects
from architect.daemon.moves.depot import Decided, Depot
from architect.daemon.moves.latest import Latest
from architect.daemon.pods import ManagedPod
from architect.kube import checkpoints
from architect.kube.api import Api
from architect.kube.events import Note
from architect.kube.resources import CHECKPOINTS, ObjectRef

log = logging.getLogger(__name__)

MAX_SAID: Final = 1024

Tell = Callable[[ManagedPod, Note], None]


class Endings:
    """Of one node. Safe to use from several threads, one pod a thread."""

    def __init__(self, api: Api, *, node: str, depot: Depot, latest: Latest, tell: Tell) -> None:
        self._api = api
        self._latest = latest
        self._node = node
        self._depot = depot
        self._tell = tell
        self._lock = threading.Lock()
        self._said: dict[str, None] = {}
        """Pods of which an event says that they go on; the latest."""

    def restored(self, uid: str, *, pod: ManagedPod | None, is_asleep: bool = False) -> None:
        """Learn that a container of the pod goes on with what came, or sleeps on with it."""
        decided = self._depot.decided(uid)
        if decided is None or not decided.checkpoint or decided.is_told:
            return
        if not self._has_taken(uid):
            return  # other containers are still to come
        took = max(0.0, time.time() - decided.asked_at)
        self._depot.drop_arrival(uid)
        said = objects.restored(self._node, after_seconds=took, is_asleep=is_asleep)
        self._tell_end(uid, decided, said)
        verb = "sleeps on with" if is_asleep else "goes on with"
        self._say(pod, decided, verb=verb, took=took)

    def _say(
        self, pod: ManagedPod | None, decided: Decided, *, verb: str, took: float | None
    ) -> None:
        """Make it an event, once: the keeper may tell it at the moment in which upkeep finds it."""
        if pod is None:
            return
        with self._lock:
            if pod.uid in self._said:
                return
            self._said[pod.uid] = None
            if len(self._said) > MAX_SAID:
                del self._said[next(iter(self._said))]
        text = f"{verb} the memory of pod {decided.predecessor}"
        if took is not None:
            text += f", {durations.render(took)} after its start"
        self._tell(pod, Note(reason=names.EVENT_RESTORED, text=text, action="Restore"))

    def waits(self, uid: str, decided: Decided) -> None:
        """Say why the pod does not start, and does not start without what it claimed."""
        self._tell_on_the_way(
            uid,
            decided,
            objects.waiting(
                decided.name, self._node, reason=decided.reason, message=decided.message
            ),
        )

    def fails(self, uid: str, message: str) -> None:
        """Say why the pod, for which everything is there, does not go on with it yet."""
        decided = self._depot.decided(uid)
        if decided is not None:
            self._tell_on_the_way(uid, decided, objects.failing(message))

    def _tell_on_the_way(self, uid: str, decided: Decided, said: objects.Said) -> None:
        if not decided.checkpoint or decided.is_told:
            return
        where = where_of(decided)
        try:
            self._latest.change(where, said, claimant=uid)
        except ArchitectError as error:
            log.warning("%s does not say why its pod waits: %s", where, error)

    def not_restored(self, uid: str, message: str) -> None:
        """Learn that the pod starts fresh after all, and why."""
        decided = self._depot.decided(uid)
        if decided is not None and decided.checkpoint and not decided.is_told:
            self._tell_end(uid, decided, objects.not_restored(message))

    def does_not_fit(self, ref: ObjectRef, why: Fresh) -> None:
        """Say in the Checkpoint that pod *ref* could have had why it has not claimed it."""
        where = ObjectRef(resource=CHECKPOINTS, namespace=ref.namespace, name=why.misfit)
        said = objects.unfit(ref.name, self._node, reason=why.reason, message=why.message)
        try:
            found = self._api.find(where)
            if found is not None and not (found.get("status") or {}).get("claimedBy"):
                # As read: whoever claims it meanwhile has the last word.
                checkpoints.set_status(self._api, found, *said)
        except ArchitectError as error:
            log.warning("%s does not say that it does not fit: %s", where, error)

    def give_up(self, uid: str, decided: Decided) -> None:
        """Say that the pod starts fresh in spite of what it claimed, of which nothing stays."""
        self._depot.drop_half_arrival(uid)
        if decided.checkpoint:
            self._depot.drop_arrival(uid)
            self._tell_end(uid, decided, _given_up(decided))

    def settle(self, uid: str, *, pod: ManagedPod | None = None) -> None:
        """Say how it ended for a pod that has taken what came, or never will, if nobody has yet.

        A daemon that was away when the keeper told it finds it on the disk.
        """
        is_restored = False
        decided = self._depot.decided(uid)
        if decided is None or not decided.checkpoint or decided.is_told:
            return
        if decided.has_given_up:
            said = _given_up(decided)
        elif not decided.has_come or not self._has_taken(uid):
            return
        elif self._depot.has_refused(uid):
            said = objects.not_restored(f"node {self._node} keeps the image that failed")
        else:
            is_restored = True
            said = objects.restored(self._node, after_seconds=None)
        self._depot.drop_arrival(uid)
        self._tell_end(uid, decided, said)
        if is_restored:
            # Whether it sleeps by now says nothing of how it came.
            self._say(pod, decided, verb="has", took=None)

    def give_back(self, uid: str) -> bool:
        """Take back what has not run, and let others claim it; whether there was something."""
        decided = self._depot.decided(uid)
        if decided is None or not decided.checkpoint or decided.is_told:
            return False
        if decided.has_given_up:
            return False  # that is what is still to be told
        departed = decided.departed if decided.is_local else None
        has_nothing = decided.is_held and not decided.has_come
        if not self._depot.give_back(uid, departed=departed) and not has_nothing:
            return False
        said, fields = objects.given_back(decided.name)
        self._tell_end(uid, decided, said, fields=fields)
        return True

    def _has_taken(self, uid: str) -> bool:
        return self._depot.arrival(uid) is None or self._depot.is_used_up(uid)

    def _tell_end(
        self,
        uid: str,
        decided: Decided,
        said: objects.Said,
        *,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Say in the Checkpoint how it ended; where nobody listens, upkeep says it later."""
        where = where_of(decided)
        try:
            try:
                self._latest.change(where, said, fields=fields, claimant=uid)
            except Rejected as error:
                if error.reason != objects.CLAIM_LOST:
                    raise
                log.warning("%s: how it ended for pod %s is not said there", error, uid)
            self._depot.note(uid, replace(decided, is_told=True))
        except (ArchitectError, OSError) as error:
            log.error("%s does not say yet how it ended: %s", where, error)


def _given_up(decided: Decided) -> objects.Said:
    """Return what is said of what a pod claimed that starts fresh in spite of it."""
    return objects.not_restored(f"{decided.reason}: {decided.message}")


def where_of(decided: Decided) -> ObjectRef:
    """Return the Checkpoint that was claimed."""
    return ObjectRef(resource=CHECKPOINTS, namespace=decided.namespace, name=decided.checkpoint)
