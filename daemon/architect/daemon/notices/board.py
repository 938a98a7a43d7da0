"""What is announced at the moment, and what is new about it (pure).

Each source says all that it has to say, part by part, again and again. What it does not say any
more is withdrawn; what it says once more is no news.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from architect.daemon.notices.notice import Notice, foremost

MOVED_SECONDS: Final = 2.0
"""A deadline that differs by less is the same one. A service's clock is read with whole seconds, so
two readings of one moment differ by up to one."""


class ChangeKind(enum.Enum):
    """What happened to a notice."""

    APPEARED = "appeared"
    CHANGED = "changed"
    """Its time, its kind or what is said of it is another one."""
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One notice after a change; if withdrawn, as it last was."""

    kind: ChangeKind
    notice: Notice
    before: Notice | None = None
    """As it was; None if it has just appeared."""


class Board:
    """The notices that stand. Not safe for use by several threads at once."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, str], dict[str, Notice]] = {}

    def take(self, source: str, part: str, notices: Iterable[Notice]) -> list[Change]:
        """Take all that *source* says now of this *part* of it, and return what is new."""
        said: dict[str, Notice] = {}
        for notice in notices:
            twin = said.get(notice.id)
            said[notice.id] = notice if twin is None else foremost((twin, notice)) or notice
        old = self._parts.get((source, part), {})
        changes = []
        for name, notice in said.items():
            before = old.get(name)
            if before is None:
                changes.append(Change(kind=ChangeKind.APPEARED, notice=notice))
            elif _is_same(before, notice):
                said[name] = before
            else:
                changes.append(Change(kind=ChangeKind.CHANGED, notice=notice, before=before))
        for name in old.keys() - said.keys():
            gone = old[name]
            changes.append(Change(kind=ChangeKind.WITHDRAWN, notice=gone, before=gone))
        self._parts[source, part] = said
        return changes

    def standing(self) -> tuple[Notice, ...]:
        """Return all of them, in no order."""
        return tuple(notice for part in self._parts.values() for notice in part.values())


def _is_same(one: Notice, other: Notice) -> bool:
    if (one.kind, one.said, one.ends_unix) != (other.kind, other.said, other.ends_unix):
        return False
    if one.deadline is None or other.deadline is None:
        return one.deadline is other.deadline
    return abs(one.deadline - other.deadline) < MOVED_SECONDS
