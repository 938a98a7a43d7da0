"""The keeper of one node, asked through the node's own socket."""

from __future__ import annotations

import time
from typing import Any, Final

from architect.api import names
from architect.api.keeper import Event, PodState
from architect.core.errors import Rejected, Unavailable
from architect.core.wire import Client
from bench.clock import milliseconds_since
from bench.errors import BenchError
from bench.processes import inside
from lab.machine import Machine

SLEEP_SECONDS: Final = 120.0
PATIENCE_SECONDS: Final = 10.0
RECONNECT_SECONDS: Final = 30.0
MOST_INTERRUPTIONS: Final = 20
INTERRUPTION_SECONDS: Final = 2.0
"""Left to whoever interrupts."""
BUSY: Final = frozenset({"Busy", "InFlight", "NotReady"})


class Keeper:
    """A connection for requests, and one for events. Both stay open over the whole measure."""

    def __init__(self, machine: Machine) -> None:
        self._socket = inside(machine, names.KEEPER_SOCKET)
        self.busy = 0
        """How often a sleep was put off because a conversation (a probe's) was under way."""
        self.interruptions = 0
        """How often the keeper was replaced in between; what was under way then does not count."""
        self._connect()

    def _connect(self) -> None:
        """Connect, waiting for a keeper that is being replaced. Raises Unavailable."""
        deadline = time.monotonic() + RECONNECT_SECONDS
        while True:
            try:
                self._client = Client(self._socket, timeout_seconds=SLEEP_SECONDS)
                self._events = Client(self._socket, timeout_seconds=SLEEP_SECONDS)
                self._events.call("subscribe")
                return
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def reconnect(self) -> None:
        """Find the next keeper. Raises BenchError when this has happened too often."""
        self.interruptions += 1
        if self.interruptions > MOST_INTERRUPTIONS:
            raise BenchError(f"interrupted by others {MOST_INTERRUPTIONS} times")
        self.close()
        time.sleep(INTERRUPTION_SECONDS)
        self._connect()

    def close(self) -> None:
        """Close both."""
        self._client.close()
        self._events.close()

    def is_asleep(self, uid: str) -> bool:
        """Whether a pod sleeps at this moment."""
        answer = self._client.call("status", pod=uid)
        return bool(answer["status"]["state"] == PodState.ASLEEP.value)

    def sleep(self, uid: str) -> float:
        """Put a pod to sleep; return the milliseconds from the request to the answer."""
        deadline = time.monotonic() + SLEEP_SECONDS
        while True:
            started = time.monotonic()
            try:
                self._client.call(
                    "sleep", pod=uid, reason="benchmark", patience_seconds=PATIENCE_SECONDS
                )
                return milliseconds_since(started)
            except Rejected as error:
                if error.reason not in BUSY or time.monotonic() > deadline:
                    raise
                self.busy += 1
                time.sleep(0.05)

    def wake(self, uid: str) -> None:
        """Wake a pod by command."""
        self._client.call("wake", pod=uid, reason="benchmark")

    def pid(self) -> int:
        """Return the keeper's pid in its node."""
        return int(self._client.call("version")["pid"])

    def told(self, event: Event, uid: str, *, since: float) -> dict[str, Any]:
        """Return the first *event* of a pod after *since* (Unix seconds); others are passed over.

        Raises BenchError if the pod could not be restored, Unavailable if the keeper ended.
        """
        while True:
            found = self._events.receive()
            if found.get("pod") != uid or found["at"] < since:
                continue
            if found.get("event") == event.value:
                return found
            if found.get("event") == Event.WAKE_FAILED.value:
                raise BenchError(f"pod {uid} was not restored: {found}")
