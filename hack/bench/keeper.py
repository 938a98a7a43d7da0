"""The keeper of one node, asked through the node's own socket."""

from __future__ import annotations

import time
from typing import Any, Final

from architect.api import names
from architect.api.keeper import Event
from architect.core.errors import Rejected
from architect.core.wire import Client
from bench.clock import milliseconds_since
from bench.errors import BenchError
from bench.processes import inside
from lab.machine import Machine

SLEEP_SECONDS: Final = 120.0
PATIENCE_SECONDS: Final = 10.0
BUSY: Final = frozenset({"Busy", "InFlight"})


class Keeper:
    """A connection for requests, and one for events. Both stay open over the whole measure."""

    def __init__(self, machine: Machine) -> None:
        socket = inside(machine, names.KEEPER_SOCKET)
        self._client = Client(socket, timeout_seconds=SLEEP_SECONDS)
        self._events = Client(socket, timeout_seconds=SLEEP_SECONDS)
        self._events.call("subscribe")
        self.busy = 0
        """How often a sleep was put off because a conversation (a probe's) was under way."""

    def close(self) -> None:
        """Close both."""
        self._client.close()
        self._events.close()

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

    def told(self, event: Event, uid: str) -> dict[str, Any]:
        """Return the next *event* of a pod; others that came before it are passed over."""
        deadline = time.monotonic() + SLEEP_SECONDS
        while time.monotonic() < deadline:
            found = self._events.receive()
            if found.get("pod") != uid:
                continue
            if found.get("event") == event.value:
                return found
            if found.get("event") == Event.WAKE_FAILED.value:
                raise BenchError(f"pod {uid} was not restored: {found}")
        raise BenchError(f"the keeper told no {event.value} of pod {uid}")
