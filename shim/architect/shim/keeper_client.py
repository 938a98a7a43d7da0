"""Asking the keeper, and bringing it up when nobody answers.

Every wait is bounded. The warden must not inherit anything of the caller's: an engine waits for
everybody who holds the pipes that it gave to its runtime.
"""

from __future__ import annotations

import os
import time
from typing import Any, Final

from architect.api import names
from architect.core.errors import Unavailable
from architect.core.wire import Client
from architect.shim import installation

START_SECONDS: Final = 2.0
"""How long a keeper may take to come up: an interpreter's start and the recovery of its pods."""
PATIENT_START_SECONDS: Final = 15.0
"""The same on a busy node, for whoever has the patience for a long answer anyway."""
CONNECT_STEP_SECONDS: Final = 0.01

_ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def ask(op: str, *, timeout_seconds: float, **arguments: Any) -> dict[str, Any]:
    """Send *op* to the keeper and return its answer, starting the keeper if none listens.

    Raises Unavailable (nobody answers in time), Rejected or NodeError (the keeper's answer).
    """
    with connect(timeout_seconds=timeout_seconds) as client:
        return client.call(op, **arguments)


def connect(*, timeout_seconds: float) -> Client:
    """Return a connection to the keeper, starting it if none listens. Raises Unavailable."""
    try:
        return Client(names.KEEPER_SOCKET, timeout_seconds=timeout_seconds)
    except Unavailable:
        start_warden()
    patience = max(START_SECONDS, min(timeout_seconds, PATIENT_START_SECONDS))
    deadline = time.monotonic() + patience
    while True:
        try:
            return Client(names.KEEPER_SOCKET, timeout_seconds=timeout_seconds)
        except Unavailable:
            if time.monotonic() >= deadline:
                raise
            time.sleep(CONNECT_STEP_SECONDS)


def start_warden() -> None:
    """Start the keeper's parent; harmless if it runs. Raises Unavailable if it cannot start."""
    warden = str(installation.program("architect-warden"))
    actions: list[tuple[Any, ...]] = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 0, 1),
        (os.POSIX_SPAWN_DUP2, 0, 2),
    ]
    try:
        pid = os.posix_spawn(warden, [warden], _ENVIRONMENT, file_actions=actions)
    except OSError as error:
        raise Unavailable(
            f"cannot start {warden}: {error.strerror}", hint="install the bundle again"
        ) from error
    # It leaves at once: its grandchild is the one that stays.
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise Unavailable(
            f"{warden} ended with status {os.waitstatus_to_exitcode(status)}",
            hint=f"is {names.RUN} writable?",
        )
