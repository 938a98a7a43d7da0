"""runsc's errors in runc's words, by which engines know them. Pure."""

from __future__ import annotations

from typing import Final

GONE: Final = "container not running"
"""What engines take for the end of a container that they wanted to signal."""

_GONE: Final = (
    "sandbox is not running",
    "connection refused",
    "not started",
    "not found",
    "no such process",
)
_KNOWN: Final = ("does not exist",)
"""Also known to engines, as the end of a container that was deleted."""


GOES_ON: Final = "in state running"
"""In what it says of a ``resume`` of what is not paused."""


def of_kill(said: str) -> str:
    """Return what to tell the engine of a ``kill`` that failed and *said* so."""
    if any(text in said for text in _KNOWN):
        return said
    return f"{GONE}\n" if any(text in said for text in _GONE) else said
