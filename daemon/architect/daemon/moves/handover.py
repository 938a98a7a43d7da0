"""The last minutes of a daemon whose node goes: what only this node has gets into other hands.

Kubelet ends pods like this daemon's after all others, and lets them have the rest of the node's
time. Successors of the pods that were saved are made while that runs, and ask here first.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Final

from architect.api.policy import Storage
from architect.core.errors import ArchitectError, FormatError
from architect.daemon.checkpoint import contents
from architect.daemon.moves import objects
from architect.daemon.moves.departures import Departures
from architect.daemon.moves.depot import Depot
from architect.daemon.store import PodStore
from architect.kube import checkpoints, conditions
from architect.kube.api import Api, JsonObject

log = logging.getLogger(__name__)

STEP_SECONDS: Final = 0.5


def needs_node(checkpoint: JsonObject | None, *, has_store: bool) -> bool:
    """Whether a saved pod whose Checkpoint is *checkpoint* is lost with its node.

    Not if somebody goes on with it, nobody can, or it lies in the object store as well, and
    whoever wants it can read there that it does.
    """
    if checkpoint is None:
        return False
    if any(
        conditions.is_true(checkpoint, kind) for kind in (checkpoints.RESTORED, checkpoints.FAILED)
    ):
        return False
    if conditions.is_false(checkpoint, checkpoints.AVAILABLE):
        return False
    is_for_store = has_store and checkpoints.storage_of(checkpoint) is Storage.OBJECT_STORE
    is_published = conditions.is_true(checkpoint, checkpoints.AVAILABLE)
    is_stored = conditions.is_true(checkpoint, checkpoints.STORED)
    return not (is_for_store and is_published and is_stored)


class Handover:
    """Of one node."""

    def __init__(
        self,
        api: Api,
        *,
        depot: Depot,
        store: PodStore,
        departures: Departures,
        has_store: bool,
        is_serving: Callable[[], bool],
    ) -> None:
        """Prepare; *is_serving* tells whether another node gets something at this moment."""
        self._api = api
        self._depot = depot
        self._store = store
        self._departures = departures
        self._has_store = has_store
        self._is_serving = is_serving
        self._safe: set[str] = set()

    def run(self, stop: threading.Event) -> None:
        """Return once nothing is lost with this node; kubelet sees to it that this ends."""
        told = ""
        while not stop.is_set():
            why = self.why_not_yet()
            if not why:
                return
            if why != told:
                told = why
                log.info("the node shuts down; this waits for %s", why)
            stop.wait(STEP_SECONDS)

    def why_not_yet(self) -> str:
        """Return what would be lost if this daemon ended now; "": nothing."""
        running = [pod for pod in self._store.all() if not pod.is_terminal]
        if running:
            return _listed("pods that kubelet still has to end", (p.full_name for p in running))
        if self._departures.are_working:
            return "pods that are being saved"
        left = [uid for uid in self._depot.departures() if self._needs_node(uid)]
        if left:
            return _listed("successors of pods, or their upload", left)
        return "a node that fetches something" if self._is_serving() else ""

    def _needs_node(self, uid: str) -> bool:
        if uid in self._safe:
            return False
        try:
            directory = self._depot.departure(uid)
            if directory is None:
                return False
            where = objects.of_manifest(contents.read(directory))
            if needs_node(self._api.find(where), has_store=self._has_store):
                return True
        except FormatError as error:
            log.warning("saved pod %s: %s", uid, error)  # another version's, which nobody can give
        except (ArchitectError, OSError) as error:
            log.warning("saved pod %s: %s", uid, error)
            return True
        self._safe.add(uid)
        return False


def _listed(what: str, names: Iterable[str]) -> str:
    return f"{what}: {', '.join(sorted(names))}"
