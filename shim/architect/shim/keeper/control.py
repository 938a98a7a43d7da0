"""The control socket: frames in, operations out, answers back.

Only root may connect. A peer that sends garbage, an oversized frame or an unknown operation gets an
error that says so, and nothing is changed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from architect.core import wire
from architect.core.errors import ArchitectError, FormatError, NodeError, Rejected
from architect.shim.keeper.loop import Future, Loop

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 256
"""Beyond them the one that has been idle for longest is closed for a new one."""
BACKLOG: Final = 1024
MAX_UNSENT_BYTES: Final = 4 << 20
"""A subscriber that reads nothing is cut off here rather than filling the keeper's memory."""
MAX_HELD_BYTES: Final = 32 << 20
"""Of all connections together: half messages, and answers that nobody has read yet."""
PAUSE_BYTES: Final = 256 << 10
"""Who has that much to read, or as many requests under way, is not listened to until then."""
MAX_UNDER_WAY: Final = 64
MAX_ID_LENGTH: Final = 64

_UCRED = struct.Struct("3i")


class Operations(Protocol):
    """What the socket offers."""

    def call(self, op: str, arguments: dict[str, Any], peer: Peer) -> Future[dict[str, Any]]:
        """Begin *op*; the future holds the answer. Raises ArchitectError for bad requests."""


class Peer:
    """One connection."""

    def __init__(
        self, loop: Loop, connection: socket.socket, closed: Callable[[Peer], None]
    ) -> None:
        self._loop = loop
        self._socket = connection
        self._closed = closed
        self._decoder = wire.Decoder()
        self._unsent = bytearray()
        self._is_open = True
        self.under_way = 0
        """Requests that have no answer yet."""
        self.last_active = time.monotonic()
        self.has_room: Callable[[], bool] = lambda: True
        """Whether the keeper can still hold what this peer sends and does not read."""
        self.on_close: list[Callable[[], None]] = []

    @property
    def held_bytes(self) -> int:
        """What the keeper holds for it."""
        return self._decoder.held_bytes + len(self._unsent)

    @property
    def is_open(self) -> bool:
        """Whether anybody can still hear an answer."""
        return self._is_open

    @property
    def is_idle(self) -> bool:
        """Whether it neither waits for anything nor has subscribed."""
        return not self.under_way and not self._unsent and not self.on_close

    def send(self, message: dict[str, Any]) -> None:
        """Send *message*, later if the peer is slow; closes the connection if it is too slow."""
        if not self._is_open:
            return
        self._unsent += wire.encode(message)
        self.flush()
        if len(self._unsent) > MAX_UNSENT_BYTES or (self._unsent and not self.has_room()):
            log.warning("a client of the control socket reads nothing; closing it")
            self.close()

    def flush(self) -> None:
        """Send what the socket takes now."""
        if not self._is_open:
            return
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._watch()

    def start(self, on_message: Callable[[Peer, dict[str, Any]], None]) -> None:
        """Serve the connection until it closes."""
        self._on_message = on_message
        self._watch()

    def answered(self) -> None:
        """Count one request less; go on with those that waited for it."""
        self.under_way -= 1
        if self._is_open and self.under_way == MAX_UNDER_WAY - 1:
            self._loop.call_soon(self._ready)

    @property
    def _is_full(self) -> bool:
        return len(self._unsent) > PAUSE_BYTES or self.under_way >= MAX_UNDER_WAY

    def _watch(self) -> None:
        self._loop.watch(
            self._socket.fileno(), self._ready, read=not self._is_full, write=bool(self._unsent)
        )

    def _ready(self) -> None:
        self.flush()
        if not self._is_open:
            return
        try:
            self._take(b"")  # what had to wait
            if self._is_open and not self._is_full:
                self._receive()
        except FormatError as error:
            self.send(wire.failure(error))
            self.close()
        if self._is_open:
            self._watch()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self.last_active = time.monotonic()
        self._take(data)
        if not self.has_room():
            raise FormatError(f"more than {MAX_HELD_BYTES} bytes are half sent or not read")

    def _take(self, data: bytes) -> None:
        """Act on each message that *data* completes, as long as the peer may ask for more."""
        self._decoder.add(data)
        while self._is_open and not self._is_full:
            message = self._decoder.take()
            if message is None:
                return
            self._on_message(self, message)

    def close(self) -> None:
        """Close the connection; closing twice is harmless."""
        if not self._is_open:
            return
        self._is_open = False
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        for callback in self.on_close:
            callback()
        self._closed(self)


class Server:
    """Listens on the control socket."""

    def __init__(self, loop: Loop, path: Path, operations: Operations) -> None:
        self._loop = loop
        self._operations = operations
        self._peers: set[Peer] = set()
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # Bound under another name and renamed, so that whoever finds the socket can connect to it.
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            self._socket.bind(str(temporary))
        finally:
            os.umask(before)
        # A client with a time-out is not queued when this is full, but refused: EAGAIN.
        self._socket.listen(BACKLOG)
        temporary.rename(path)
        loop.watch(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except BlockingIOError:
                return
            connection.setblocking(False)
            peer = Peer(self._loop, connection, self._peers.discard)
            peer.has_room = self._has_room
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
            _, uid, _ = _UCRED.unpack(credentials)
            if uid != 0:
                peer.send(
                    wire.failure(
                        Rejected(
                            f"uid {uid} may not control the keeper",
                            reason="NotRoot",
                            hint="use root on the node",
                        )
                    )
                )
                peer.close()
            elif not self._make_place():
                peer.send(
                    wire.failure(
                        Rejected(f"{MAX_CONNECTIONS} connections are open", reason="TooMany")
                    )
                )
                peer.close()
            else:
                self._peers.add(peer)
                peer.start(self._message)

    def _has_room(self) -> bool:
        return sum(peer.held_bytes for peer in self._peers) <= MAX_HELD_BYTES

    def _make_place(self) -> bool:
        """Return whether one more connection can be taken, closing an idle one where needed."""
        if len(self._peers) < MAX_CONNECTIONS:
            return True
        idle = [peer for peer in self._peers if peer.is_idle]
        if not idle:
            return False
        oldest = min(idle, key=lambda peer: peer.last_active)
        oldest.send(wire.failure(Rejected("others need the connection", reason="Idle")))
        oldest.close()
        return True

    def _message(self, peer: Peer, message: dict[str, Any]) -> None:
        number = message.pop("id", None)
        try:
            if not isinstance(number, (int, str, type(None))) or len(str(number)) > MAX_ID_LENGTH:
                number = None
                raise Rejected("'id' is neither a number nor a short text", reason="Protocol")
            op = wire.operation(message)
            future = self._operations.call(op, message, peer)
        except (ArchitectError, RecursionError) as error:
            if isinstance(error, RecursionError):
                error = Rejected("the request is nested too deeply", reason="Protocol")
            answer = wire.failure(error)
            peer.send(answer if number is None else {**answer, "id": number})
            return
        peer.under_way += 1

        def reply(done: Future[dict[str, Any]]) -> None:
            try:
                answer = {"ok": True, **done.result()}
            except (ArchitectError, OSError) as error:
                answer = wire.failure(error)
            except Exception as error:  # noqa: BLE001  # the defect is logged by the loop
                answer = wire.failure(
                    NodeError(f"{op} ended by a defect: {error!r}", reason="Defect")
                )
            try:
                peer.send(answer if number is None else {**answer, "id": number})
            except FormatError as error:
                peer.send({**wire.failure(error), **({} if number is None else {"id": number})})
            peer.answered()

        future.when_done(reply)

    def close(self) -> None:
        """Stop listening and close all connections; the socket's file stays for the next keeper."""
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        for peer in list(self._peers):
            with contextlib.suppress(OSError):
                peer.close()
