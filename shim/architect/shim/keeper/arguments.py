"""What a request on the control socket says, read strictly: what is malformed is Rejected."""

from __future__ import annotations

from typing import Any, Final

from architect.core.errors import Rejected

DEFAULT_PATIENCE_SECONDS: Final = 2.0
"""How long a sleep waits for conversations to drain before it gives up."""

MAX_PATIENCE_SECONDS: Final = 60.0

Arguments = dict[str, Any]


def commands(arguments: Arguments) -> list[list[str]]:
    """Return the commands of ``ends_with``; none if they are absent. Raises Rejected."""
    value = arguments.get("ends_with", [])
    if not isinstance(value, list) or not all(
        isinstance(argv, list) and all(isinstance(word, str) for word in argv) for argv in value
    ):
        raise Rejected("'ends_with' is not a list of commands", reason="Protocol")
    return value


def patience(arguments: Arguments) -> float:
    """Return ``patience_seconds``, at most a minute; two seconds if absent. Raises Rejected."""
    value = arguments.get("patience_seconds", DEFAULT_PATIENCE_SECONDS)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Rejected("'patience_seconds' is not a number", reason="Protocol")
    # Compared first: an int may be larger than any float.
    return float(min(max(0.0, value), MAX_PATIENCE_SECONDS))


def reason(arguments: Arguments, usual: str) -> str:
    """Return ``reason``, shortened to what an event takes; *usual* if there is none."""
    value = arguments.get("reason", usual)
    return value[:200] if isinstance(value, str) else usual
