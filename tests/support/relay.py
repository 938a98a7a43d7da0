"""A TCP relay on the loopback that can break what goes through it."""

from __future__ import annotations

import contextlib
import socket
import threading


class Relay:
    """Forwards connections to *port*.

    ``cut_after`` ends every connection once so many bytes came from the server, each time anew;
    ``is_silent`` forwards nothing more and ends nothing, as a machine that lost its power.
    """

    def __init__(self, port: int) -> None:
        self.port_behind = port
        self.cut_after = 0
        self.cuts = 0
        self.most_cuts = 1 << 30
        self.is_silent = False
        self.is_recorded = False
        self.recorded: list[bytearray] = []
        """What went through, one for each direction of each connection."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: set[socket.socket] = {self._listener}
        self._lock = threading.Lock()
        self._is_closed = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        with self._lock:
            sockets = tuple(self._sockets)
        for one in sockets:
            _end(one)
        for thread in self._threads:
            thread.join(20)
        for one in sockets:
            one.close()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                front, _ = self._listener.accept()
            except OSError:
                return
            try:
                back = socket.create_connection(("127.0.0.1", self.port_behind))
            except OSError:
                front.close()
                continue
            with self._lock:
                self._sockets |= {front, back}
            for one, other, is_answer in ((front, back, False), (back, front, True)):
                thread = threading.Thread(
                    target=self._copy, args=(one, other, is_answer), daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _copy(self, one: socket.socket, other: socket.socket, is_answer: bool) -> None:
        seen, recorded = 0, bytearray()
        self.recorded.append(recorded)
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                seen += len(data)
                if self.is_recorded:
                    recorded += data
                if self.is_silent:
                    continue
                if is_answer and 0 < self.cut_after < seen and self.cuts < self.most_cuts:
                    self.cuts += 1
                    break
                other.sendall(data)
        if not self.is_silent:
            _end(one)
            _end(other)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
