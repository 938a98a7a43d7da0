"""The daemon's UNIX socket: the runtime's questions about pods that come and go.

One thread a connection: an answer takes as long as a capture or a transfer, and a node starts and
ends few containers at once. See :mod:`architect.api.daemon`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from architect.api import daemon as protocol
from architect.core import clocks, files, wire
from architect.core.errors import ArchitectError, FormatError, Rejected

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 512
"""Kubelet's limit is 110 pods a node; each has a few containers at most that come or go."""
REQUEST_SECONDS: Final = 10.0
"""Within it a client must have sent its request."""
ACCEPT_PAUSE_SECONDS: Final = 0.1
_UCRED: Final = struct.Struct("3i")

Arguments = dict[str, Any]
Operation = Callable[[Arguments], dict[str, Any]]


class Endpoint:
    """Listens, and calls the operation that each request names."""

    def __init__(self, path: Path, operations: Mapping[str, Operation]) -> None:
        self._path = path
        self._left = path.with_name(protocol.LEFT)
        self._operations = operations
        self._places = threading.Semaphore(MAX_CONNECTIONS)
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Take the socket over from whoever had it before, and listen. Raises OSError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        new = self._path.with_name(f"{self._path.name}.new")
        new.unlink(missing_ok=True)
        listener.bind(str(new))
        os.chmod(new, 0o600)
        listener.listen(MAX_CONNECTIONS)
        # In one step, so that there is always somebody to ask.
        new.rename(self._path)
        self._left.unlink(missing_ok=True)
        self._socket = listener
        threading.Thread(target=self._accept, args=(listener,), name="moves", daemon=True).start()

    def close(self, *, is_for_good: bool = False) -> None:
        """Listen no more: whoever comes is told at once that nobody is there.

        Unless *is_for_good* it is left beside the socket that the next daemon will come soon.
        """
        listener, self._socket = self._socket, None  # before it ends: no trouble of ours
        if listener is not None:
            if not is_for_good:
                with contextlib.suppress(OSError):
                    self._left.unlink(missing_ok=True)
                    files.write_atomic(
                        self._left, f"{clocks.boot_seconds():.3f}\n".encode(), durable=False
                    )
            self._path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if self._socket is not listener:
                    return  # closed
                # No descriptor is free, say: once one is, whoever has waited is answered.
                log.error("nobody can ask at %s: %s", self._path, error)
                time.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            if not self._places.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(
                target=self._serve, args=(connection,), name="moves-client", daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(REQUEST_SECONDS)
                self._converse(connection)
        except OSError as error:
            log.debug("a client of %s left: %s", self._path, error)
        finally:
            self._places.release()

    def _converse(self, connection: socket.socket) -> None:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _, uid, _ = _UCRED.unpack(credentials)
        if uid != 0:
            refusal = Rejected(f"uid {uid} may not ask the daemon", reason="NotRoot")
            connection.sendall(wire.encode(wire.failure(refusal)))
            return
        decoder = wire.Decoder()
        while data := connection.recv(65536):
            try:
                requests = list(decoder.feed(data))
            except FormatError as error:
                connection.sendall(wire.encode(wire.failure(error)))
                return
            for request in requests:
                connection.sendall(wire.encode(self._answer(request)))

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            op = wire.operation(request)
            operation = self._operations.get(op)
            if operation is None:
                known = ", ".join(sorted(self._operations))
                raise Rejected(
                    f"unknown operation {op!r:.80}", reason="Protocol", hint=f"known are {known}"
                )
            return {"ok": True, **operation(request)}
        except (ArchitectError, OSError) as error:
            return wire.failure(error)
