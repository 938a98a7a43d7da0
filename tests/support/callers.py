"""Clients that connect anew all the time, from a node's network, each for one answer."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import threading
import time
from typing import Final, NamedTuple

from architect.shim.packets.netns import Netns
from lab.node import Node

PORT: Final = 8080
PAUSE_SECONDS: Final = 0.1
REQUEST: Final = b"GET / HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n"

ANSWERED: Final = "answered"
REFUSED: Final = "ECONNREFUSED"
RESET: Final = "ECONNRESET"
UNHEARD: Final = "unheard"
"""Nothing came until the end: there, who waits would have to for a time-out."""


class Call(NamedTuple):
    """One connection, and what became of it."""

    begun: float
    """Unix seconds."""
    how: str
    """One of the above, ``closed``, or another error's name."""


class Callers:
    """They call for the ``with`` block; none waits for the end of another's call."""

    def __init__(self, node: Node, address: str) -> None:
        self._node = node
        self._address = address
        self._calls: list[Call] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"callers of {address}")

    def __enter__(self) -> Callers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def __str__(self) -> str:
        """Tell what became of them one after the other, for people."""
        runs: list[str] = []
        last, count, since = "", 0, 0.0
        for begun, how in [*sorted(self._calls), Call(0.0, "")]:
            if how != last:
                if count:
                    runs.append(f"{count} {last} from {since:.1f}")
                last, count, since = how, 0, begun
            count += 1
        return f"{self._address}: {', '.join(runs)}"

    def kinds(self, since: float, until: float) -> set[str]:
        """Return what became of those that began between the two, by now."""
        return {how for begun, how in list(self._calls) if since <= begun < until}

    def _run(self) -> None:
        with (
            Netns.open(self._node.machine.network) as netns,
            selectors.DefaultSelector() as pending,
        ):
            following = time.monotonic()
            while not self._is_over.is_set():
                if time.monotonic() >= following:
                    following = time.monotonic() + PAUSE_SECONDS
                    self._begin(netns.open_socket(socket.AF_INET, socket.SOCK_STREAM), pending)
                for key, _ in pending.select(PAUSE_SECONDS / 2):
                    self._go_on(key, pending)
            for key in list(pending.get_map().values()):
                self._end(key, pending, UNHEARD)

    def _begin(self, connection: socket.socket, pending: selectors.BaseSelector) -> None:
        connection.setblocking(False)
        key = pending.register(connection, selectors.EVENT_WRITE, data=time.time())
        if (error := connection.connect_ex((self._address, PORT))) not in (0, errno.EINPROGRESS):
            self._end(key, pending, errno.errorcode[error])

    def _go_on(self, key: selectors.SelectorKey, pending: selectors.BaseSelector) -> None:
        connection = key.fileobj
        assert isinstance(connection, socket.socket)
        try:
            if key.events == selectors.EVENT_READ:
                self._end(key, pending, ANSWERED if connection.recv(65536) else "closed")
            elif error := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, os.strerror(error))
            else:
                connection.sendall(REQUEST)
                pending.modify(connection, selectors.EVENT_READ, data=key.data)
        except OSError as error:
            self._end(key, pending, errno.errorcode.get(error.errno or 0, type(error).__name__))

    def _end(self, key: selectors.SelectorKey, pending: selectors.BaseSelector, how: str) -> None:
        connection = key.fileobj
        assert isinstance(connection, socket.socket)
        pending.unregister(connection)
        connection.close()
        self._calls.append(Call(begun=key.data, how=how))
