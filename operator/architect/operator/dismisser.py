"""Delete the pods of machines that end: what :mod:`architect.operator.dismissal` decided."""

from __future__ import annotations

import logging
from typing import Any

from architect.core.errors import Rejected, Retryable
from architect.kube.api import Api
from architect.kube.resources import CHECKPOINTS, NODES, PODS, ObjectRef
from architect.operator import dismissal
from architect.operator.apply import Applier

log = logging.getLogger(__name__)

JsonObject = dict[str, Any]


class Dismisser:
    """Safe to use from several threads; deleting a pod twice is deleting it once."""

    def __init__(self, api: Api, applier: Applier) -> None:
        self._api = api
        self._applier = applier

    def look_at(self, checkpoint: JsonObject) -> None:
        """Decide about the pod of one Checkpoint, by reads that are not from a cache."""
        self._look_at(checkpoint, is_deleted=False)

    def deleted(self, checkpoint: JsonObject) -> None:
        """Decide about the pod of a Checkpoint that was deleted: if saved, it never runs again."""
        self._look_at(checkpoint, is_deleted=True)

    def _look_at(self, checkpoint: JsonObject, *, is_deleted: bool) -> None:
        ref = dismissal.pod_of(checkpoint)
        if ref is None:
            return
        try:
            pod = self._api.find(ref)
            name = ((pod or {}).get("spec") or {}).get("nodeName")
            node = self._api.find(ObjectRef(resource=NODES, name=name)) if name else None
        except (Rejected, Retryable) as error:
            log.warning("whether %s may go is not known: %s", ref, error)
            return
        action = dismissal.decide(checkpoint, pod=pod, node=node, is_deleted=is_deleted)
        if action is not None:
            self._applier.apply(action)

    def sweep(self) -> None:
        """Look at all Checkpoints whose pods are there."""
        try:
            values = self._api.list(CHECKPOINTS).items
            asked = [(v, ref) for v in values if (ref := dismissal.pod_of(v)) is not None]
            if not asked:
                return
            there = {pod["metadata"]["uid"] for pod in self._api.list(PODS, is_cached=True).items}
        except (Rejected, Retryable) as error:
            log.warning("pods of machines that end: %s", error)
            return
        for value, ref in asked:
            if ref.uid in there:
                self.look_at(value)
