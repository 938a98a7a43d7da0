"""What the host's logind says of a shutdown, which it delays for those who asked it to.

Asked by ``busctl``, which comes with systemd, as logind does. org.freedesktop.login1(5) has the
words.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from architect.core.errors import FormatError, NodeError
from architect.daemon.host import Host

BUS: Final = Path("/run/dbus/system_bus_socket")
"""Of the host (D-Bus specification, "Well-known Message Bus Instances")."""

ASK_SECONDS: Final = 2.0

_MANAGER: Final = (
    "org.freedesktop.login1",
    "/org/freedesktop/login1",
    "org.freedesktop.login1.Manager",
)


@dataclass(frozen=True, kw_only=True)
class Shutdown:
    """A shutdown of the host, as far as one is under way."""

    is_prepared: bool
    """It was asked for, and is delayed by others or about to begin."""
    delayed_by: frozenset[str]
    """Who still holds a lock that delays it, by the names that they gave themselves."""


def shutdown(host: Host) -> Shutdown | None:
    """Return what logind says; None: the host has no system bus. Raises NodeError, FormatError."""
    try:
        if not host.path(BUS).is_socket():
            return None
    except OSError as error:
        raise NodeError(f"cannot look for {BUS} on the host: {error.strerror}", path=BUS) from error
    prepared = _ask(host, "get-property", "PreparingForShutdown")
    if prepared is not True:
        return Shutdown(is_prepared=False, delayed_by=frozenset())
    return Shutdown(is_prepared=True, delayed_by=_delaying(_ask(host, "call", "ListInhibitors")))


def _ask(host: Host, verb: str, member: str) -> Any:
    argv = ["busctl", "--system", "--json=short", verb, *_MANAGER, member]
    said = host.run(argv, timeout_seconds=ASK_SECONDS)
    try:
        return json.loads(said)["data"]
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"busctl says of {member}: {said:.200}") from error


def _delaying(data: Any) -> frozenset[str]:
    """Return who delays a shutdown, of the answer to ``ListInhibitors``: ``a(ssssuu)``."""
    try:
        (rows,) = data
        return frozenset(str(who) for what, who, _, mode, *_ in rows if _delays(what, mode))
    except (ValueError, TypeError, AttributeError) as error:
        raise FormatError(f"logind's inhibitors cannot be read: {data!r:.200}") from error


def _delays(what: str, mode: str) -> bool:
    kinds: Sequence[str] = what.split(":")
    return mode == "delay" and "shutdown" in kinds
