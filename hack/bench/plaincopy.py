"""Bytes of a file, copied from node to node by nothing but two sockets: beside our own transfer.

One connection, ``sendfile`` on one side, ``recv`` and ``write`` on the other; no encryption, no
checksum, nothing forced to the disk on either side (nor does our own transfer before a restore).
Standard library only: it runs in nodes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any, Final

LIMIT_SECONDS: Final = 120.0
BLOCK_BYTES: Final = 1 << 20
_SIZE: Final = struct.Struct("!Q")


class PlainCopy:
    """Both sides, below *directory*."""

    def __init__(self, directory: Path) -> None:
        self._source = directory / "copy-source"
        self._target = directory / "copy-target"
        self._listener: socket.socket | None = None

    def offer(self, size: int) -> dict[str, Any]:
        """Have *size* bytes at least, in the page cache, and serve them; return the port."""
        if not self._source.exists() or self._source.stat().st_size < size:
            with open(self._source, "wb") as target:
                for _ in range(-(-size // BLOCK_BYTES)):
                    target.write(os.urandom(BLOCK_BYTES))
                # Else the disk is busy with it just as it is copied.
                target.flush()
                os.fsync(target.fileno())
        if self._listener is None:
            self._listener = socket.create_server(("", 0))
            threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()
        return {"port": self._listener.getsockname()[1]}

    def fetch(self, address: str, port: int, size: int) -> dict[str, Any]:
        """Copy *size* bytes from another node's offer into a new file; return how long it took."""
        buffer = memoryview(bytearray(BLOCK_BYTES))
        self._target.unlink(missing_ok=True)
        left = size
        started = time.monotonic()
        with (
            socket.create_connection((address, port), timeout=LIMIT_SECONDS) as connection,
            open(self._target, "wb", buffering=0) as target,
        ):
            connection.sendall(_SIZE.pack(size))
            while left:
                received = connection.recv_into(buffer[: min(left, BLOCK_BYTES)])
                if not received:
                    raise ConnectionResetError(f"the copy ended {left} bytes early")
                target.write(buffer[:received])
                left -= received
        took = time.monotonic() - started
        self._target.unlink()
        return {"seconds": took}

    def close(self) -> None:
        """Serve no more, and remove what was made."""
        if self._listener is not None:
            # The thread that waits in it ends only so.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for path in (self._source, self._target):
            path.unlink(missing_ok=True)

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # closed
            with connection, contextlib.suppress(OSError), open(self._source, "rb") as source:
                connection.settimeout(LIMIT_SECONDS)
                head = connection.recv(_SIZE.size, socket.MSG_WAITALL)
                if len(head) == _SIZE.size:
                    connection.sendfile(source, count=_SIZE.unpack(head)[0])
