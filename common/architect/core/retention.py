"""What goes so that no more is held than a limit says. Pure.

Who is asked knows what is held, what each is worth and what may go at all; here is only the one
rule: the least worth goes first, what must not go stays, and nothing goes that need not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Limit:
    """How much may be held; None: as much as there is."""

    count: int | None = None
    size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Held(Generic[T]):
    """One of what is held."""

    item: T
    size: int
    worth: Any
    """Something that can be compared: the smallest goes first."""
    may_go: bool


@dataclass(frozen=True, kw_only=True)
class Gone(Generic[T]):
    """One that is to go, with what was held together just before."""

    item: T
    count: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Shrunk(Generic[T]):
    """What is to go."""

    gone: tuple[Gone[T], ...]
    is_beyond: bool
    """Whether what must stay is more than the limit says."""


def shrink(held: Iterable[Held[T]], limit: Limit) -> Shrunk[T]:
    """Return what of *held* is to go, and whether that is enough."""
    left = sorted(held, key=lambda one: one.worth)
    count, size = len(left), sum(one.size for one in left)
    gone: list[Gone[T]] = []
    for one in left:
        if not _is_beyond(count, size, limit):
            break
        if one.may_go:
            gone.append(Gone(item=one.item, count=count, size=size))
            count, size = count - 1, size - one.size
    return Shrunk(gone=tuple(gone), is_beyond=_is_beyond(count, size, limit))


def _is_beyond(count: int, size: int, limit: Limit) -> bool:
    return (limit.count is not None and count > limit.count) or (
        limit.size is not None and size > limit.size
    )
