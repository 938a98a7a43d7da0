"""Asking the daemon about pods that come and go; it may be restarted in the middle of an answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from architect.api import daemon, names
from architect.core import clocks
from architect.core.errors import Unavailable
from architect.core.wire import Client

RESTART_SECONDS: Final = 20.0
"""As long as kubelet takes to start a daemon again that has ended, and it to listen."""
REPLACED_SECONDS: Final = 60.0
"""How long after a daemon has ended in order its successor is expected: an image may be pulled."""
STEP_SECONDS: Final = 0.1

HINT: Final = "does Architect's daemon run on this node?"


def ask(
    op: str,
    *,
    timeout_seconds: float,
    is_awaited: Callable[[], bool] = lambda: False,
    **arguments: Any,
) -> dict[str, Any]:
    """Return the daemon's answer, also of the one that comes after the one that was asked.

    Where none listens nobody is waited for, unless one *is_awaited*: it was at work for us when it
    ended. Raises Unavailable, Rejected, NodeError.
    """
    deadline = time.monotonic() + timeout_seconds
    try:
        client = Client(names.DAEMON_SOCKET, timeout_seconds=timeout_seconds, hint=HINT)
    except Unavailable:
        if not is_awaited():
            raise
        client = _again(deadline)
    while True:
        try:
            with client:
                return client.call(op, **arguments)
        except Unavailable:
            if time.monotonic() >= deadline:
                raise
            # What has been asked is done once, however often it is asked.
            client = _again(deadline)


def is_being_replaced() -> bool:
    """Whether a daemon has just ended in order, so that another one will come: an upgrade, say."""
    left = names.DAEMON_SOCKET.with_name(daemon.LEFT)
    try:
        said = left.read_text(encoding="ascii").strip()
        if said:
            return abs(clocks.boot_seconds() - float(said)) < REPLACED_SECONDS
        # An earlier version's.
        return abs(time.time() - left.stat().st_mtime) < REPLACED_SECONDS
    except (OSError, ValueError):
        return False


def _again(deadline: float) -> Client:
    give_up = min(deadline, time.monotonic() + RESTART_SECONDS)
    while True:
        time.sleep(STEP_SECONDS)
        left = deadline - time.monotonic()
        try:
            left = max(STEP_SECONDS, left)
            return Client(names.DAEMON_SOCKET, timeout_seconds=left, hint=HINT)
        except Unavailable:
            if time.monotonic() > give_up:
                raise
