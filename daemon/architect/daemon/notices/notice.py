"""What was announced about this machine (pure)."""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

MAX_SAID_CHARS: Final = 300
"""Of the words of others that go into logs, conditions and events."""


class Kind(enum.Enum):
    """What is going to happen."""

    INTERRUPTION = "interruption"
    """The machine ends, or is drained to be ended. It does not come back, or nobody knows when."""

    MAINTENANCE = "maintenance"
    """It is restarted or moved to other hardware: it comes back, without what was in memory."""

    REBALANCE = "rebalance"
    """It is more likely than others to end soon. Nothing was announced yet."""


ENDS: Final = frozenset({Kind.INTERRUPTION, Kind.MAINTENANCE})
"""After these, nothing is left of what was in this machine's memory."""


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """What a source says, by its own clock."""

    kind: Kind
    id: str
    """What the source calls it; the same as long as it is the same announcement."""
    said: str
    """In the source's own words; see :func:`line`."""
    ends_unix: float | None = None
    """When, by the source's clock; None: it does not say."""
    ends_in_seconds: float | None = None
    """How long after it was first seen, for sources that announce without a time."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """An announcement, as it stands on this machine."""

    kind: Kind
    source: str
    """``aws``, ``gcp``, ``azure`` or ``node``."""
    id: str
    said: str
    ends_unix: float | None
    """As the source said it, by its clock. For people; decisions go by :attr:`deadline`."""
    deadline: float | None
    """The announced moment, on :func:`time.monotonic` of this machine, which no change of the wall
    clock moves; None: nobody said when. Up to a second early, never late."""

    def seconds_left(self, now: float) -> float | None:
        """Return the time until :attr:`deadline`, at least 0; *now* is of the same clock."""
        return None if self.deadline is None else max(0.0, self.deadline - now)

    def __str__(self) -> str:
        left = self.seconds_left(time.monotonic())
        when = "at a time that was not said" if left is None else f"in {left:.0f} s"
        if self.kind is Kind.REBALANCE and left is None:
            when = "more likely than usual"
        return f"{self.kind.value} {when} ({self.source}: {self.said})"


def foremost(notices: Iterable[Notice]) -> Notice | None:
    """Return the notice that counts: the first end, known moments before unknown ones.

    A :attr:`Kind.REBALANCE` counts only where no end is announced.
    """
    return min(notices, key=_rank, default=None)


def _rank(notice: Notice) -> tuple[bool, float, str, str]:
    deadline = math.inf if notice.deadline is None else notice.deadline
    return notice.kind not in ENDS, deadline, notice.source, notice.id


def line(text: str) -> str:
    """Return *text* as one printable line of bounded length."""
    words = " ".join(text[: 4 * MAX_SAID_CHARS].split())
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words)
    if len(printable) <= MAX_SAID_CHARS:
        return printable
    return printable[: MAX_SAID_CHARS - 1] + "…"
