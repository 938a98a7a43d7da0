"""What of the object store goes: our objects and listed keys in, decisions out. Pure.

Data goes with the Checkpoint that it is of: once it is deleted, or has restored its pod. That of a
PersistentCheckpoint, which may restore many, goes once the object is deleted. There is no
finalizer: it would make the end of a namespace wait for a store that is away. So deletion is
noticed by its event, and what is missed is found when everything that lies in the store is
compared with all objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from architect.kube import checkpoints, conditions
from architect.kube.conditions import Condition, Status
from architect.kube.resources import PERSISTENT_CHECKPOINTS
from architect.operator import abandoned

ORPHAN_AGE: Final = timedelta(hours=1)
"""How long data waits for its Checkpoint: a node that saved its pods while the API server was away
may be the only one who knows of them."""

REMOVED: Final = "Removed"


class Place(NamedTuple):
    """Whose data it is: the first parts of its keys."""

    namespace: str
    checkpoint_id: str


@dataclass(frozen=True, kw_only=True)
class Remove:
    """Remove everything of one checkpoint."""

    place: Place
    why: str


def is_persistent(value: Mapping[str, Any]) -> bool:
    """Whether it is a PersistentCheckpoint."""
    return value.get("kind") == PERSISTENT_CHECKPOINTS.kind


def place_of(value: Mapping[str, Any]) -> Place | None:
    """Return where the data of an object of ours lies, if it ever gets into the store.

    A Checkpoint by which a pod starts from a PersistentCheckpoint has none of its own.
    """
    spec, metadata = value.get("spec") or {}, value["metadata"]
    if is_persistent(value):
        uid = metadata.get("uid")
    elif spec.get("startFrom"):
        return None
    else:
        uid = (spec.get("podRef") or {}).get("uid")
    return Place(metadata["namespace"], uid) if uid else None


def is_over(value: Mapping[str, Any]) -> bool:
    """Whether nobody will restore it any more.

    Of one that may have run, and may not, the data is kept as long as the object.
    """
    available = conditions.said(value, checkpoints.AVAILABLE)
    if is_persistent(value) or available.get("reason") == abandoned.MAY_HAVE_RUN:
        return False
    return conditions.is_true(value, checkpoints.RESTORED) or (
        conditions.is_true(value, checkpoints.CAPTURED)
        and conditions.is_false(value, checkpoints.AVAILABLE)
    )


def for_checkpoint(checkpoint: Mapping[str, Any]) -> Remove | None:
    """Decide about the data of one Checkpoint that was changed."""
    place = place_of(checkpoint)
    if place is None or not conditions.is_true(checkpoint, checkpoints.STORED):
        return None
    if not is_over(checkpoint):
        return None
    return Remove(place=place, why=f"checkpoint {checkpoint['metadata']['name']} is over")


def for_deleted(value: Mapping[str, Any]) -> Remove | None:
    """Decide about the data of an object that was deleted."""
    place = place_of(value)
    if place is None or not checkpoints.stored_in(value):
        return None
    kind = "persistent checkpoint" if is_persistent(value) else "checkpoint"
    return Remove(place=place, why=f"{kind} {value['metadata']['name']} was deleted")


def for_all(
    listed: Mapping[Place, datetime], known: Iterable[Mapping[str, Any]], *, now: datetime
) -> list[Remove]:
    """Decide about everything in the store; *listed* has the time of each place's latest object.

    *known*, Checkpoints and PersistentCheckpoints, was read after *listed*: an object is there
    before its data.
    """
    live = _live(known)
    found = []
    for place, changed in sorted(listed.items()):
        if place in live:
            if not live[place]:
                found.append(Remove(place=place, why="its checkpoint is over"))
        elif now - changed > ORPHAN_AGE:
            found.append(Remove(place=place, why=f"no checkpoint for {now - changed}"))
    return found


def is_wanted(place: Place, known: Iterable[Mapping[str, Any]]) -> bool:
    """Whether one of *known* is not over and has its data there."""
    return _live(known).get(place, False)


def _live(known: Iterable[Mapping[str, Any]]) -> dict[Place, bool]:
    """Return the places that objects have; False: all of theirs are over."""
    live: dict[Place, bool] = {}
    for value in known:
        if (place := place_of(value)) is not None:
            live[place] = live.get(place, False) or not is_over(value)
    return live


def removed(why: str) -> Condition:
    """Return what a Checkpoint says once its data is gone."""
    return Condition(type=checkpoints.STORED, status=Status.FALSE, reason=REMOVED, message=why)
