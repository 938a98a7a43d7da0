"""An HTTP proxy on the loopback that breaks what goes through it, over real sockets.

It reads requests one by one, so that it can answer one itself; answers pass as bytes.
"""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from support.patience import patient

CHUNK_BYTES: Final = 16 * 1024

ERROR_BODY: Final = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n'
    b"<Error><Code>%s</Code><Message>the proxy says so</Message></Error>"
)
CODES: Final = {500: b"InternalError", 503: b"SlowDown", 507: b"InsufficientStorage"}


class FaultProxy:
    """Forwards HTTP to *port*. Its faults are attributes, which may be set at any time.

    Use it in a ``with`` block.
    """

    def __init__(self, port: int) -> None:
        self.port_behind = port
        self.failures = 0
        """So many of the next requests are answered with :attr:`status`."""
        self.status = 500
        self.cut_request_after = 0
        self.cut_answer_after = 0
        """A connection ends once so many bytes went this way; 0: never."""
        self.most_cuts = 1 << 30
        self.damage_request_at = -1
        """One bit of that byte of a request's body is changed; -1: none."""
        self.delay_seconds = 0.0
        """Before a request is passed on; ends early when the proxy does."""
        self.bytes_per_second = 0
        """Of each connection and way; 0: as fast as it goes."""
        self.requests: list[str] = []
        """The first lines of what came."""
        self.cuts = 0
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._sockets: set[socket.socket] = {self._listener}
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed.set()
        deadline = time.monotonic() + patient(60.0)
        while time.monotonic() < deadline:
            # Again, for what was accepted or connected just now.
            with self._lock:
                sockets, threads = tuple(self._sockets), tuple(self._threads)
            for one in sockets:
                _end(one)
            for thread in threads:
                thread.join(0.1)
            if not any(thread.is_alive() for thread in threads):
                break
        with self._lock:
            for one in self._sockets:
                one.close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while not self._is_closed.is_set():
            try:
                front, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._sockets.add(front)
            self._start(self._serve, front)

    def _start(self, target: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        with self._lock:
            self._threads.append(thread)

    def _serve(self, front: socket.socket) -> None:
        """Pass one client's requests on until it, the server or a fault ends that."""
        back: socket.socket | None = None
        try:
            with contextlib.suppress(OSError, EOFError), front.makefile("rb") as incoming:
                while head := _head(incoming):
                    self.requests.append(head[0].decode().strip())
                    length = _length(head)
                    if self._takes_failure():
                        _skip(incoming, length)
                        front.sendall(_answer(self.status))
                        continue
                    if self._is_closed.wait(self.delay_seconds):
                        return
                    if back is None:
                        back = socket.create_connection(("127.0.0.1", self.port_behind))
                        with self._lock:
                            self._sockets.add(back)
                        self._start(self._answers, back, front)
                    back.sendall(b"".join(head))
                    self._forward(incoming, back, length)
        finally:
            for one in filter(None, (front, back)):
                _end(one)

    def _forward(self, incoming: io.BufferedReader, back: socket.socket, length: int) -> None:
        sent = 0
        while sent < length:
            limit = self._limit(self.cut_request_after, sent)
            data = incoming.read1(min(CHUNK_BYTES, length - sent, limit))
            if not data:
                raise EOFError
            back.sendall(self._damaged(data, sent))
            sent += len(data)
            self._pace(len(data))
            self._cut(self.cut_request_after, sent)

    def _answers(self, back: socket.socket, front: socket.socket) -> None:
        sent = 0
        with contextlib.suppress(OSError, EOFError):
            while data := back.recv(min(CHUNK_BYTES, self._limit(self.cut_answer_after, sent))):
                front.sendall(data)
                sent += len(data)
                self._pace(len(data))
                self._cut(self.cut_answer_after, sent)
        _end(front)
        _end(back)

    def _damaged(self, data: bytes, sent: int) -> bytes:
        at = self.damage_request_at - sent
        if not 0 <= at < len(data):
            return data
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    def _limit(self, cut_after: int, sent: int) -> int:
        """Return how much may come before a cut."""
        return min(CHUNK_BYTES, cut_after - sent) if sent < cut_after else CHUNK_BYTES

    def _cut(self, after: int, sent: int) -> None:
        """End the connection, by EOFError, if enough went over it."""
        with self._lock:
            if not 0 < after <= sent or self.cuts >= self.most_cuts:
                return
            self.cuts += 1
        raise EOFError

    def _takes_failure(self) -> bool:
        with self._lock:
            if self.failures <= 0:
                return False
            self.failures -= 1
            return True

    def _pace(self, size: int) -> None:
        if self.bytes_per_second:
            self._is_closed.wait(size / self.bytes_per_second)


def _head(incoming: io.BufferedReader) -> list[bytes]:
    """Return the lines of a request up to the empty one; none at the end."""
    lines: list[bytes] = []
    while line := incoming.readline(CHUNK_BYTES):
        lines.append(line)
        if line == b"\r\n":
            return lines
    return []


def _length(head: list[bytes]) -> int:
    for line in head:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _skip(incoming: io.BufferedReader, length: int) -> None:
    while length:
        data = incoming.read1(min(CHUNK_BYTES, length))
        if not data:
            raise EOFError
        length -= len(data)


def _answer(status: int) -> bytes:
    body = ERROR_BODY % CODES.get(status, b"Unknown")
    return (
        b"HTTP/1.1 %d Fault\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n"
        % (status, len(body))
    ) + body


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
