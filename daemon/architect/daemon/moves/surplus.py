"""Which saved pods go so that a node's disk does not fill up with them. Pure.

A saved pod is mostly the only copy of a memory for which somebody is about to come. So what is the
only copy, and may still be asked for by a pod that is created now, never goes: who leaves when
there is no room any more is not saved, and gets its signal in time. What does go, goes in the order
of :class:`Standing`, the oldest first.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from architect.core import retention
from architect.core.retention import Held, Limit
from architect.daemon.claims import Bounds
from architect.kube import checkpoints, conditions
from architect.kube.conditions import Status

LATE_SECONDS: Final = Bounds().late_seconds
"""No pod that is created later than this can have it; one that waits to be scheduled still may."""


class Standing(enum.IntEnum):
    """Who would miss a saved pod on this node's disk, from nobody to somebody."""

    OVER = 0
    """Nobody: its Checkpoint is gone, or says already that nobody can have it."""
    STORED = 1
    """Nobody: it lies in the object store, too, where its successor finds it a little later."""
    TAKEN = 2
    """Only who comes after its claimant, whose node has all of it, if that gives it back."""
    LATE = 3
    """Only a pod that was created in its time and has waited for a node ever since."""
    WANTED = 4
    """Its successor. It stays."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """One that lies there."""

    uid: str
    size: int
    created: float
    """Unix seconds."""
    standing: Standing


def standing(
    checkpoint: Mapping[str, Any] | None,
    *,
    node: str,
    age_seconds: float,
    is_unannounced: bool = False,
    is_there: bool = False,
) -> Standing:
    """Return how a pod stands that is saved on *node* and whose Checkpoint is *checkpoint*.

    *is_unannounced*: that there is none means that none could be made. *is_there*: the pod itself
    has not ended yet, so that its end is still being told, or its node's end is.
    """
    if is_there:
        return Standing.WANTED
    if checkpoint is None:
        return Standing.WANTED if is_unannounced else Standing.OVER
    if conditions.is_true(checkpoint, checkpoints.RESTORED):
        return Standing.OVER
    if not conditions.is_true(checkpoint, checkpoints.CAPTURED):
        return Standing.WANTED  # not published yet
    is_over = conditions.is_false(checkpoint, checkpoints.AVAILABLE)
    if claim := (checkpoint.get("status") or {}).get("claimedBy"):
        # Of one that is over and may have run, the data stays as long as the object. One that was
        # claimed on this node lies here only if it has just been given back.
        if is_over or claim.get("node") == node:
            return Standing.WANTED
        said = conditions.said(checkpoint, checkpoints.RESTORED)
        has_come = said.get("status") == Status.UNKNOWN.value
        return Standing.TAKEN if has_come else Standing.WANTED  # it is being fetched
    if is_over:
        return Standing.OVER
    if conditions.is_true(checkpoint, checkpoints.STORED):
        return Standing.STORED
    return Standing.LATE if age_seconds > LATE_SECONDS else Standing.WANTED


@dataclass(frozen=True, kw_only=True)
class Surplus:
    """What is to go."""

    gone: tuple[Saved, ...]
    has_room: bool
    """Whether that is enough."""


def surplus(
    saved: Iterable[Saved], *, fixed_bytes: int = 0, needed_bytes: int = 0, quota_bytes: int
) -> Surplus:
    """Return what goes so that all of it, and *needed_bytes* more, are within *quota_bytes*.

    *fixed_bytes* are what lies there besides and stays. Where that makes no room for what is
    needed, nothing goes for it that anybody might miss.
    """
    held = [
        Held(
            item=one,
            size=one.size,
            worth=(one.standing, one.created, one.uid),
            may_go=one.standing is not Standing.WANTED,
        )
        for one in saved
    ]
    limit = Limit(size=quota_bytes - fixed_bytes - needed_bytes)
    found = retention.shrink(held, limit)
    gone = tuple(end.item for end in found.gone)
    if found.is_beyond and needed_bytes:
        gone = tuple(one for one in gone if one.standing <= Standing.STORED)
    return Surplus(gone=gone, has_room=not found.is_beyond)
