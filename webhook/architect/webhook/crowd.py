"""Bounds on what those take who reach the port: connections, time for a request, memory.

The API server alone has business here, and any pod may come where no NetworkPolicy keeps it away.
Of too many connections the oldest that never got an answer makes place, in whatever state it is: a
handshake that does not go on, a request that drips. A request has a time to arrive in, and large
bodies a common bound, so that small ones, which nearly all are, always find room.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS: Final = 512
"""Beyond them one is ended for each that comes. An API server has a few."""
REQUEST_SECONDS: Final = 15.0
"""From the first byte of a request to its last. The API server itself waits for the answer as long
as the configuration's ``timeoutSeconds``, 5 by default."""
SMALL_BYTES: Final = 64 * 1024
"""Bodies up to here are always taken: there are no more of them than connections."""
MAX_HELD_BYTES: Final = 48 * 1024 * 1024
"""All larger bodies together while they arrive: sixteen of the largest."""


class Held:
    """How much the larger bodies take that are arriving."""

    def __init__(self) -> None:
        self.bytes = 0

    def has_room(self, body: int, more: int) -> bool:
        """Whether a body of so many bytes may grow by *more*, which are then counted."""
        if body + more <= SMALL_BYTES:
            return True
        growth = more if body > SMALL_BYTES else body + more
        if self.bytes + growth > MAX_HELD_BYTES:
            return False
        self.bytes += growth
        return True

    def drop(self, body: int) -> None:
        """Forget a body of so many bytes."""
        if body > SMALL_BYTES:
            self.bytes -= body


class Crowd:
    """All connections, from the moment in which they are accepted. Of one event loop."""

    def __init__(self) -> None:
        self._served: dict[socket.socket, bool] = {}
        """In the order in which they came; whether one was ever answered."""

    def __len__(self) -> int:
        self._forget()
        return len(self._served)

    def add(self, connection: socket.socket) -> None:
        """Take one more, and end another if there are too many."""
        self._served[connection] = False
        if len(self._served) <= MAX_CONNECTIONS:
            return
        self._forget()
        if len(self._served) > MAX_CONNECTIONS:
            oldest = next((c for c, served in self._served.items() if not served), None)
            oldest = oldest or next(iter(self._served))
            del self._served[oldest]
            # The loop reads its end, and closes it.
            with contextlib.suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)

    def note_answered(self, fd: int) -> None:
        """Keep a connection before those that never got an answer."""
        for connection in self._served:
            if connection.fileno() == fd:
                self._served[connection] = True

    def _forget(self) -> None:
        self._served = {c: served for c, served in self._served.items() if c.fileno() >= 0}


class Listener(socket.socket):
    """A listening socket whose connections are counted."""

    crowd: Crowd

    @classmethod
    def of(cls, plain: socket.socket, crowd: Crowd) -> Listener:
        """Return a listener in the place of *plain*."""
        made = cls(plain.family, plain.type, plain.proto, fileno=plain.detach())
        made.crowd = crowd
        return made

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        connection, address = super().accept()
        self.crowd.add(connection)
        return connection, address


class Connection(H11Protocol):
    """One connection, whose requests arrive in time or not at all."""

    crowd: Crowd
    """Of the class that :func:`protocol` makes."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        """Begin. One that never says anything is as idle as one between two requests."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if self._patience is None:
            self._patience = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)
        super().data_received(data)
        if not self._is_arriving():
            self._calm()

    def _is_arriving(self) -> bool:
        if self.conn.their_state is h11.IDLE:
            return bool(self.conn.trailing_data[0])
        return self.conn.their_state is h11.SEND_BODY

    def _calm(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def on_response_complete(self) -> None:
        """Go on to the next request."""
        self.crowd.note_answered(self.transport.get_extra_info("socket").fileno())
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._calm()
        super().connection_lost(exc)


def protocol(crowd: Crowd) -> type[Connection]:
    """Return the protocol of the connections of *crowd*."""
    return type("Connection", (Connection,), {"crowd": crowd})
