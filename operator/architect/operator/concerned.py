"""Which Checkpoints the end of a pod, or of a node, concerns.

Of a pod, the one that goes with it, and what it has claimed; of a node, what its pods have claimed.
A pod that goes is nothing to most of them, and a node that is drained has many that go at once. So
what their events told is kept, and nothing is read for those without any. What events missed, a
sweep finds.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from architect.kube.resources import CHECKPOINTS, ObjectRef
from architect.operator import abandoned, plan

JsonObject = dict[str, Any]


def uids_of(checkpoint: JsonObject) -> frozenset[str]:
    """Return the uids of the pods whose end matters to a Checkpoint.

    Raises FormatError for one that names no pod.
    """
    claimant, owner = abandoned.claimant_of(checkpoint), plan.pod_it_goes_with(checkpoint)
    return frozenset(pod.uid for pod in (claimant, owner) if pod is not None)


class Concerned:
    """As last told. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uids: dict[ObjectRef, frozenset[str]] = {}
        self._refs: dict[str, set[ObjectRef]] = {}
        self._nodes: dict[ObjectRef, str] = {}

    def learn(self, checkpoint: JsonObject) -> None:
        """Learn of a Checkpoint as it is now. Raises FormatError for one that names no pod."""
        ref, uids = ObjectRef.of(CHECKPOINTS, checkpoint), uids_of(checkpoint)
        claimant = abandoned.claimant_of(checkpoint)
        with self._lock:
            self._forget(ref)
            if claimant is not None:
                self._nodes[ref] = claimant.node
            if uids:
                self._uids[ref] = uids
            for uid in uids:
                self._refs.setdefault(uid, set()).add(ref)

    def forget(self, refs: Iterable[ObjectRef]) -> None:
        """Learn that Checkpoints are gone."""
        with self._lock:
            for ref in refs:
                self._forget(ref)

    def all(self) -> frozenset[ObjectRef]:
        """Return every Checkpoint to which any pod's end matters."""
        with self._lock:
            return frozenset(self._uids)

    def by(self, pod_uid: str) -> tuple[ObjectRef, ...]:
        """Return those to which the end of pod *pod_uid* matters."""
        with self._lock:
            return tuple(self._refs.get(pod_uid, ()))

    def claimed_on(self, node: str) -> tuple[ObjectRef, ...]:
        """Return those that pods of *node* have claimed, and not gone on from yet."""
        with self._lock:
            return tuple(ref for ref, name in self._nodes.items() if name == node)

    def _forget(self, ref: ObjectRef) -> None:
        self._nodes.pop(ref, None)
        for uid in self._uids.pop(ref, ()):
            self._refs[uid].discard(ref)
            if not self._refs[uid]:
                del self._refs[uid]
