"""What the API hears of pods that leave: each step in the pod's Checkpoint, as soon as it listens.

The object is there before anything is done: the successor looks for it. In a node's last minutes
nobody waits for that, and it is made once the API server is back: by this daemon, which remembers
on the disk that nobody has heard, or by the operator, from what lies in the object store.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from architect.checkpoint.manifest import Manifest
from architect.core.errors import ArchitectError, Rejected, Retryable
from architect.daemon.moves import objects
from architect.daemon.moves.depot import Depot
from architect.daemon.moves.latest import Latest
from architect.daemon.patience import patiently
from architect.kube import checkpoints, conditions
from architect.kube.api import Api
from architect.kube.checkpoints import CheckpointSpec
from architect.kube.errors import AlreadyExists, NotFound
from architect.kube.resources import ObjectRef

log = logging.getLogger(__name__)

PUBLISH_SECONDS: Final = 60.0
"""How long an API server that is away is tried, before upkeep tries again."""
PUBLISH_STEP_SECONDS: Final = 0.5
PUBLISHERS: Final = 4


def ref_of(spec: CheckpointSpec) -> ObjectRef:
    """Return the Checkpoint of *spec*."""
    return checkpoints.ref_of(spec.pod, trigger=spec.trigger)


class Announcing:
    """Of one node. Safe to use from several threads."""

    def __init__(self, api: Api, *, node: str, depot: Depot, latest: Latest) -> None:
        self._api = api
        self._latest = latest
        self._node = node
        self._depot = depot
        # Apart: an API server that is away must not keep pods from being saved.
        self._publishers = ThreadPoolExecutor(PUBLISHERS, "publish")

    def close(self) -> None:
        """Begin nothing more: the next daemon says what is not said yet."""
        self._publishers.shutdown(wait=False, cancel_futures=True)

    def announce(self, spec: CheckpointSpec) -> None:
        """Create the object.

        Raises Rejected if an earlier daemon brought it to an end already, ArchitectError.
        """
        where = ref_of(spec)
        try:
            value = self._api.create(where, checkpoints.build(spec))
        except AlreadyExists:
            value = self._api.get(where.resource, where.name, namespace=where.namespace)
            if conditions.is_decided(value, checkpoints.CAPTURED):
                raise Rejected(f"{where} has an outcome already", reason="AlreadyDecided") from None
        # With its location: if this daemon ends, the next one finds what it left unfinished.
        fields = objects.location(self._node, spec.pod.uid)
        self._latest.note(
            checkpoints.set_status(self._api, value, *objects.capturing(self._node), fields=fields)
        )
        self._depot.note_announced(spec.pod.uid)

    def publish(
        self, spec: CheckpointSpec, manifest: Manifest, said: objects.Said, *, took_seconds: float
    ) -> None:
        """Have the object say that the pod can be restored; returns at once."""
        fields = checkpoints.captured_status(objects.capture_of(manifest, seconds=took_seconds))

        def publish() -> None:
            self._announce_late(spec)
            if self._latest.change(ref_of(spec), said, fields=fields) is None:
                log.warning("%s was deleted; what it stands for goes, too", ref_of(spec))

        self._in_background(publish, f"{ref_of(spec)} is saved, and nobody knows yet")

    def refuse(self, spec: CheckpointSpec, reason: str, message: str) -> None:
        """Have the object say why the pod is not saved; returns at once."""

        def refuse() -> None:
            try:
                self.announce(spec)
            except Rejected as error:
                log.info("%s: %s", ref_of(spec), error)
                return
            self._latest.change(ref_of(spec), objects.not_captured(reason, message))

        self._in_background(refuse, f"{ref_of(spec)} does not say that its pod is not saved")

    def not_captured(self, spec: CheckpointSpec, reason: str, message: str) -> None:
        """Say why the pod that was announced is not saved after all."""
        # If nobody hears it now, upkeep finds a capture that nobody is at.
        with contextlib.suppress(ArchitectError):
            self._latest.change(ref_of(spec), objects.not_captured(reason, message))

    def withdraw(self, spec: CheckpointSpec) -> None:
        """Remove the object of a pod that stays as if nobody had tried; returns at once."""
        self._in_background(
            lambda: self._api.delete(ref_of(spec)), f"{ref_of(spec)} is not removed, its pod stays"
        )

    def _announce_late(self, spec: CheckpointSpec) -> None:
        if self._depot.unannounced(spec.pod.uid) is None:
            return
        try:
            self.announce(spec)
        except Rejected as error:
            # An answer that was lost, or the operator, which found it in the store.
            log.info("%s: %s", ref_of(spec), error)
            self._depot.note_announced(spec.pod.uid)

    def _in_background(self, say: Callable[[], None], failure: str) -> None:
        def run() -> None:
            try:
                patiently(
                    say,
                    seconds=PUBLISH_SECONDS,
                    step_seconds=PUBLISH_STEP_SECONDS,
                    again=(Retryable, NotFound),
                )
            except (ArchitectError, OSError) as error:
                log.error("%s: %s", failure, error)

        with contextlib.suppress(RuntimeError):  # the daemon is ending: the next one says it
            self._publishers.submit(run)
