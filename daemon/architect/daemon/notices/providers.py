"""What the module of a cloud must offer, and which there are.

A new one is a module with a class like :class:`Provider` around pure parsers, and a line in
:mod:`architect.daemon.notices.detection`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from architect.core.errors import ArchitectError
from architect.daemon.notices.metadata import Absent, Silent
from architect.daemon.notices.notice import Announcement


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Who this machine is, by its metadata service."""

    name: str
    """What the cloud calls it."""
    about: str
    """More of it, for the log."""
    is_spot: bool
    """Whether the cloud may take it back; where it does not say, it may."""
    notice_seconds: float
    """How long before the end of a spot machine that is announced."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What was heard of one part of what a provider says."""

    announcements: tuple[Announcement, ...] | None
    """All that stand; None: that is not known at the moment, and what stood stands."""
    problem: ArchitectError | None = None

    @property
    def is_dead(self) -> bool:
        """Whether the service was not there or did not answer: other questions may wait, too."""
        return isinstance(self.problem, (Absent, Silent))


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look at all that a provider says."""

    parts: Mapping[str, Part]
    """By name; a part that is not in it was not asked for this time."""
    again_seconds: float
    """Until the next look is due."""


class Provider(Protocol):
    """The metadata service of one cloud, for one thread."""

    def identify(self) -> Machine:
        """Return who this machine is.

        Raises Absent if the service is not this cloud's, Rejected with a hint if it is and cannot
        be used, and what :meth:`metadata.Service.ask` does.
        """

    def look(self) -> Look:
        """Return what stands. May take as long as the service holds its answer back."""

    def acknowledge(self, name: str) -> None:
        """Say that the announcement *name* may happen now: all that was to be saved is.

        Raises Rejected (:data:`NOT_ASKED`) where that is not asked for, or would not be ours to
        say.
        """


NOT_ASKED: Final = "NotAsked"


def part(ask: Callable[[], tuple[Announcement, ...]]) -> Part:
    """Return what *ask* returns, or why it does not."""
    try:
        return Part(announcements=ask())
    except ArchitectError as error:
        return Part(announcements=None, problem=error)
