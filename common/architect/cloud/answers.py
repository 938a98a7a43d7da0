"""What a service says no with, as errors of our own.

::

    Rejected         it refused, and would again; ``reason`` is a word of its vocabulary
    Retryable        another try may settle it, soon
    └── Unavailable  no answer, one that is none, or one that says to come again

A text says what was tried on which object, and a bounded part of what the server said. Servers of
many makers are spoken to: a code that is known counts before the status.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from architect.core.errors import Rejected, Retryable, Unavailable

MAX_MESSAGE_CHARS: Final = 500
"""Of what a server says."""

_BUSY_STATUSES: Final = frozenset({408, 429})


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The codes of one kind of service, and what they mean to us."""

    reasons: Mapping[str, str]
    """Code to reason, of refusals."""
    hints: Mapping[str, str]
    """Reason to what is to be done."""
    reasons_of_status: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    """Where there is no code that is known: an answer to HEAD, or a proxy's own page."""
    soon_seconds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Code of what another try may settle, to its delay."""
    busy: Collection[str] = frozenset()
    """Codes that say to come again later, whatever their status."""
    busy_seconds: float
    """Until then."""
    unreachable_hint: str
    prefix: str = ""
    """Of reasons that are made of codes nobody foresaw."""

    def named(self, status: int, code: str, message: str, *, what: str) -> Rejected | Retryable:
        """Return the error for an answer that is not a success.

        *what* says what was tried on which object (``put bucket/key``).
        """
        said = " ".join(filter(None, (str(status or ""), bounded(code))))
        text = f"cannot {what}: {said}" + (f": {bounded(message)}" if message else "")
        if code in self.soon_seconds:
            return Retryable(text, delay_seconds=self.soon_seconds[code])
        if (reason := self.reasons.get(code)) is not None:
            return self.refused(text, reason)
        reason = self.reasons_of_status.get(status)
        is_busy = status in _BUSY_STATUSES or (status >= 500 and reason is None)
        if code in self.busy or is_busy:
            return Unavailable(text, delay_seconds=self.busy_seconds)
        word = self.prefix + code if re.fullmatch(r"[A-Z][A-Za-z0-9]{2,60}", code) else ""
        return self.refused(text, reason or word or f"{self.prefix}Status{status}")

    def refused(self, text: str, reason: str) -> Rejected:
        """Return the error of that reason, with the hint that belongs to it."""
        return Rejected(text, reason=reason, hint=self.hints.get(reason, ""))

    def unreachable(self, said: str, *, what: str) -> Unavailable:
        """Return the error for a request without an answer, or with one that is none."""
        return Unavailable(
            f"cannot {what}: {bounded(said)}",
            delay_seconds=self.busy_seconds,
            hint=self.unreachable_hint,
        )


def bounded(text: str) -> str:
    """Return *text* as one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_MESSAGE_CHARS else line[: MAX_MESSAGE_CHARS - 1] + "…"
