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
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from architect.core import wire
from architect.core.errors import ArchitectError, FormatError, NodeError, Rejected
from architect.shim.keeper.loop import Future, Loop

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 256
MAX_UNSENT_BYTES: Final = 4 << 20
"""A subscriber that reads nothing is cut off here rather than filling the keeper's memory."""

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
        self.on_close: list[Callable[[], None]] = []

    @property
    def is_open(self) -> bool:
        """Whether answers can still reach the peer."""
        return self._is_open

    def send(self, message: dict[str, Any]) -> None:
        """Send *message*, later if the peer is slow; closes the connection if it is too slow."""
        if not self._is_open:
            return
        self._unsent += wire.encode(message)
        self.flush()
        if len(self._unsent) > MAX_UNSENT_BYTES:
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

    def _watch(self) -> None:
        self._loop.watch(self._socket.fileno(), self._ready, write=bool(self._unsent))

    def _ready(self) -> None:
        self.flush()
        if not self._is_open:
            return
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            for message in self._decoder.feed(data):
                self._on_message(self, message)
        except FormatError as error:
            self.send(failed(error))
            self.close()

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
        self._socket.listen(64)
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
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
            _, uid, _ = _UCRED.unpack(credentials)
            if uid != 0:
                peer.send(
                    failed(
                        Rejected(
                            f"uid {uid} may not control the keeper",
                            reason="NotRoot",
                            hint="use root on the node",
                        )
                    )
                )
                peer.close()
            elif len(self._peers) >= MAX_CONNECTIONS:
                peer.send(
                    failed(Rejected(f"{MAX_CONNECTIONS} connections are open", reason="TooMany"))
                )
                peer.close()
            else:
                self._peers.add(peer)
                peer.start(self._message)

    def _message(self, peer: Peer, message: dict[str, Any]) -> None:
        op = message.pop("op", None)
        version = message.pop("v", None)
        number = message.pop("id", None)
        try:
            if version != wire.PROTOCOL_VERSION:
                raise Rejected(
                    f"protocol version {version!r} is not {wire.PROTOCOL_VERSION}",
                    reason="Protocol",
                    hint="client and keeper are of different versions of Architect",
                )
            if not isinstance(op, str):
                raise Rejected("the request names no operation", reason="Protocol")
            future = self._operations.call(op, message, peer)
        except ArchitectError as error:
            answer = failed(error)
            peer.send(answer if number is None else {**answer, "id": number})
            return

        def reply(done: Future[dict[str, Any]]) -> None:
            try:
                answer = {"ok": True, **done.result()}
            except (ArchitectError, OSError) as error:
                answer = failed(error)
            except Exception as error:  # noqa: BLE001  # the defect is logged by the loop
                answer = failed(NodeError(f"{op} ended by a defect: {error!r}", reason="Defect"))
            peer.send(answer if number is None else {**answer, "id": number})

        future.when_done(reply)

    def close(self) -> None:
        """Stop listening and close all connections; the socket's file stays for the next keeper."""
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        for peer in list(self._peers):
            with contextlib.suppress(OSError):
                peer.close()


def failed(error: ArchitectError | OSError) -> dict[str, Any]:
    """Return the answer that tells *error*."""
    if isinstance(error, (Rejected, NodeError)):
        code = "rejected" if isinstance(error, Rejected) else "failed"
        reason, message, hint = error.reason, error.message, error.hint
    elif isinstance(error, ArchitectError):
        code, reason = "rejected", type(error).__name__
        message, hint = error.message, error.hint
    else:
        code, reason, message, hint = "failed", "System", str(error), ""
    return {
        "ok": False,
        "error": {"code": code, "reason": reason, "message": message, "hint": hint},
    }
