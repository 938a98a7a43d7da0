"""Pods that start from a PersistentCheckpoint: found, waited for, and a Checkpoint made for each.

That object is the pod's claim. It ends with the pod, so that who started from what is seen as long
as it matters, and the operator answers it as any other claim of what lies in the object store.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from architect.core.errors import Rejected
from architect.daemon import claims, starts
from architect.daemon.claims import Fresh, Newcomer, Wait
from architect.daemon.moves import objects
from architect.daemon.moves.waiting import until_decided
from architect.daemon.offers import Node
from architect.daemon.shared import SharedReads
from architect.daemon.starts import Bounds
from architect.kube import checkpoints
from architect.kube.api import Api, JsonObject
from architect.kube.errors import AlreadyExists, Conflict
from architect.kube.resources import CHECKPOINTS, PERSISTENT_CHECKPOINTS, ObjectRef

LOOK_SECONDS: Final = 0.5
"""Between two looks at a source; ten pods that wait for it look together."""


class Starting:
    """Of one node. Safe to use from several threads."""

    def __init__(self, api: Api, *, node: str, patience_seconds: float) -> None:
        self._api = api
        self._node = node
        self._bounds = Bounds(capture_seconds=patience_seconds)
        self._looks = SharedReads[JsonObject | None](apart_seconds=LOOK_SECONDS)

    def claim(
        self,
        ref: ObjectRef,
        pod: JsonObject,
        newcomer: Newcomer,
        *,
        name: str,
        node: Node,
        is_leaving: Callable[[], bool],
    ) -> JsonObject | Fresh:
        """Return the claimed checkpoint by which *pod* starts from *name*, or why it does not.

        Raises ArchitectError.
        """
        where = ObjectRef(resource=PERSISTENT_CHECKPOINTS, namespace=newcomer.namespace, name=name)

        def look(waited: float) -> JsonObject | Fresh | Wait:
            if is_leaving():
                return claims.LEAVING
            source = self._looks.read(where, lambda: self._api.find(where))
            decision = starts.decide(
                pod,
                newcomer,
                name=name,
                source=source,
                node=node,
                waited_seconds=waited,
                bounds=self._bounds,
            )
            if isinstance(decision, starts.Start):
                assert source is not None  # else there is nothing to start from
                return self._take(ref, source, template_hash=decision.template_hash)
            return decision

        return until_decided(
            look,
            who=newcomer.name,
            look_seconds=LOOK_SECONDS,
            patience_seconds=self._bounds.capture_seconds,
        )

    def _take(self, ref: ObjectRef, source: JsonObject, *, template_hash: str) -> JsonObject:
        """Make the pod's checkpoint, or find the one that an earlier daemon made, and claim it."""
        made = checkpoints.build_start(ref, source, template_hash=template_hash)
        where = ObjectRef(
            resource=CHECKPOINTS, namespace=ref.namespace, name=made["metadata"]["name"]
        )
        try:
            value = self._api.create(where, made)
        except AlreadyExists:
            value = self._api.get(CHECKPOINTS, where.name, namespace=where.namespace)
            if value["spec"] != made["spec"]:
                raise Rejected(
                    f"{where} is there already, of something else", reason="Taken"
                ) from None
        for _ in range(objects.CONFLICTS):
            try:
                fields = {
                    "location": objects.source_of(source),
                    "requirements": source["status"]["requirements"],
                }
                value = checkpoints.set_status(self._api, value, fields=fields)
                return checkpoints.claim(self._api, value, pod=ref, node=self._node)
            except Conflict:
                time.sleep(objects.CONFLICT_SECONDS)
                value = self._api.get(CHECKPOINTS, where.name, namespace=where.namespace)
        raise Conflict(f"{where} is being changed by others all the time")
