"""Conditions: one statement each about an object, with when it last changed."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

MAX_MESSAGE_CHARS: Final = 1024
"""Kubernetes allows 32768; more than this is a log, not a statement."""


class Status(enum.Enum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What is to be said; the time of the change is found by :func:`merge`."""

    type: str
    status: Status
    reason: str
    """A CamelCase word."""
    message: str = ""

    @property
    def bounded_message(self) -> str:
        """The message, cut to :data:`MAX_MESSAGE_CHARS`."""
        if len(self.message) <= MAX_MESSAGE_CHARS:
            return self.message
        return self.message[: MAX_MESSAGE_CHARS - 1] + "…"


def merge(
    existing: Iterable[dict[str, Any]],
    new: Condition,
    *,
    now: datetime.datetime,
    generation: int | None = None,
) -> dict[str, Any] | None:
    """Return *new* as JSON, or None if *existing* says the same already.

    ``lastTransitionTime`` moves with the status only. *generation* becomes ``observedGeneration``,
    in our own kinds' conditions.
    """
    value: dict[str, Any] = {
        "type": new.type,
        "status": new.status.value,
        "reason": new.reason,
        "message": new.bounded_message,
    }
    if generation is not None:
        value["observedGeneration"] = generation
    old = next((c for c in existing if c.get("type") == new.type), None)
    if old is not None and all(old.get(key, "") == item for key, item in value.items()):
        return None
    is_same_status = old is not None and old.get("status") == new.status.value
    since = old.get("lastTransitionTime") if old is not None and is_same_status else None
    return {**value, "lastTransitionTime": since or timestamp(now)}


def find(existing: Iterable[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """Return the condition of that type."""
    return next((c for c in existing if c.get("type") == name), None)


def said(value: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Return the condition of that type of an object; empty if it says nothing of it."""
    return find((value.get("status") or {}).get("conditions") or (), kind) or {}


def is_true(value: Mapping[str, Any], kind: str) -> bool:
    """Whether a condition of an object holds."""
    return said(value, kind).get("status") == Status.TRUE.value


def is_false(value: Mapping[str, Any], kind: str) -> bool:
    """Whether an object says that a condition does not hold."""
    return said(value, kind).get("status") == Status.FALSE.value


def is_decided(value: Mapping[str, Any], kind: str) -> bool:
    """Whether a condition of an object holds, or is said not to."""
    return is_true(value, kind) or is_false(value, kind)


def replace(existing: Iterable[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the list with *new* in the place of the one of its type, for merge patches."""
    kept = [c for c in existing if c.get("type") != new["type"]]
    return [*kept, new]


def timestamp(at: datetime.datetime) -> str:
    """Return a metav1.Time: RFC 3339 in UTC, whole seconds."""
    return at.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_timestamp(at: datetime.datetime) -> str:
    """Return a metav1.MicroTime."""
    return at.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
