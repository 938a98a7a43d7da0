"""Which PersistentCheckpoints go so that the object store does not grow without end. Pure.

Limits are the administrator's: how many, and how many bytes, in a namespace and in all. Those that
were not used for longest go first. Two kinds stay whatever the limits say: one that is pinned by
its annotation, and the last good one, the newest that was saved of what it asks for, since a limit
must not leave a Deployment with nothing to start from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from architect.api import names
from architect.core import retention
from architect.kube import checkpoints, conditions
from architect.kube.resources import PERSISTENT_CHECKPOINTS, ObjectRef
from architect.operator.plan import Expire


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much may be kept; 0: as much as there is."""

    count: int = 0
    size: int = 0
    """Bytes, before compression."""
    namespace_count: int = 0
    namespace_size: int = 0


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """One that was saved."""

    value: Mapping[str, Any]
    namespace: str
    size: int
    asked: str
    """What its spec asks for, the same for those that save the same pods."""
    captured: tuple[str, str, int]
    """When, in whole seconds; of those of one second the one is newer that was made or written
    later."""
    used: str
    """Times, as the API writes them, which sort by themselves."""
    is_pinned: bool


def total_bytes(values: Iterable[Mapping[str, Any]]) -> int:
    """Return how much they have saved, as the limits count it."""
    return sum(found.size for value in values if (found := _read(value)) is not None)


@dataclass(frozen=True, kw_only=True)
class Excess:
    """What is beyond the limits."""

    ends: tuple[Expire, ...]
    """Those that go, and why."""
    beyond: tuple[str, ...]
    """Who holds more than the limits say all the same, as pins or last good ones: ``the cluster``,
    ``namespace …``."""


def excess(values: Iterable[Mapping[str, Any]], limits: Limits) -> Excess:
    """Return what is to go, and what stays too much."""
    kept = [found for value in values if (found := _read(value)) is not None]
    newest: dict[tuple[str, str], _Kept] = {}
    for one in sorted(kept, key=lambda k: k.captured):
        newest[one.namespace, one.asked] = one
    last_good = {id(one) for one in newest.values()}
    gone: dict[int, str] = {}
    beyond: list[str] = []

    def shrink(group: Sequence[_Kept], count: int, size: int, where: str) -> None:
        found = retention.shrink(
            [
                retention.Held(
                    item=one,
                    size=one.size,
                    worth=(one.used, one.captured),
                    may_go=not (one.is_pinned or id(one) in last_good),
                )
                for one in group
                if id(one) not in gone
            ],
            retention.Limit(count=count or None, size=size or None),
        )
        for end in found.gone:
            gone[id(end.item)] = (
                f"{where} keeps {end.count} of {end.size} bytes together, of which "
                f"objectStore.limits lets it keep {count or 'any number'} "
                f"of {size or 'any number of'} bytes; this one was unused for longest"
            )
        if found.is_beyond:
            beyond.append(where)

    for namespace in sorted({one.namespace for one in kept}):
        group = [one for one in kept if one.namespace == namespace]
        shrink(group, limits.namespace_count, limits.namespace_size, f"namespace {namespace}")
    shrink(kept, limits.count, limits.size, "the cluster")
    ends = [
        Expire(
            persistent=ObjectRef.of(PERSISTENT_CHECKPOINTS, dict(one.value)),
            resource_version=one.value["metadata"].get("resourceVersion", ""),
            why=gone[id(one)],
        )
        for one in kept
        if id(one) in gone
    ]
    return Excess(ends=tuple(ends), beyond=tuple(beyond))


def _read(value: Mapping[str, Any]) -> _Kept | None:
    metadata, status = value["metadata"], value.get("status") or {}
    is_there = conditions.is_true(value, checkpoints.AVAILABLE)
    if metadata.get("deletionTimestamp") or not is_there:
        return None
    captured = str(status.get("capturedAt") or "")
    spec = value.get("spec") or {}
    asked = spec.get("podName") or sorted(
        ((spec.get("selector") or {}).get("matchLabels") or {}).items()
    )
    return _Kept(
        value=value,
        namespace=metadata["namespace"],
        size=int(status.get("bytes") or 0),
        asked=str(asked),
        captured=(captured, str(metadata.get("creationTimestamp") or ""), _version(metadata)),
        used=max(captured, str(status.get("lastUsedAt") or "")),
        is_pinned=(metadata.get("annotations") or {}).get(names.PIN) == "true",
    )


def _version(metadata: Mapping[str, Any]) -> int:
    """Return the object's version as a number, which grows; 0 for one that is none."""
    text = str(metadata.get("resourceVersion") or "")
    return int(text) if text.isdecimal() else 0
