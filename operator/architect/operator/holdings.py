"""What checkpoints hold, by namespace: how many can be restored, and how many bytes. Pure."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from architect.kube import checkpoints, conditions
from architect.kube.checkpoints import Trigger
from architect.kube.resources import PERSISTENT_CHECKPOINTS

ASLEEP: Final = "asleep"
"""Of pods that sleep: on their nodes' disks, until they wake."""
MOVING: Final = "moving"
"""Of pods that left, for their successors: on a node's disk, in the object store, or both."""
PERSISTENT: Final = "persistent"
"""What pods start from: in the object store."""


@dataclass(frozen=True, kw_only=True)
class Holding:
    """How much of one kind."""

    count: int = 0
    size: int = 0
    """Bytes, before compression."""


def of(values: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Holding]:
    """Return by namespace and kind what those of *values* hold that can be restored now.

    A Checkpoint by which a pod starts from a PersistentCheckpoint holds nothing of its own.
    """
    found: dict[tuple[str, str], Holding] = collections.defaultdict(Holding)
    for value in values:
        metadata, spec = value["metadata"], value.get("spec") or {}
        is_there = conditions.is_true(value, checkpoints.AVAILABLE)
        if spec.get("startFrom") or metadata.get("deletionTimestamp") or not is_there:
            continue
        key = (metadata["namespace"], _kind(value, spec))
        before = found[key]
        size = int((value.get("status") or {}).get("bytes") or 0)
        found[key] = Holding(count=before.count + 1, size=before.size + size)
    return dict(found)


def _kind(value: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    if value.get("kind") == PERSISTENT_CHECKPOINTS.kind:
        return PERSISTENT
    return ASLEEP if spec.get("trigger") == Trigger.SLEEP.value else MOVING
