"""Gives what was granted, once, over a connection of its own.

Whoever connects has shown nothing yet. So one thread listens to all of them, and only a ticket gets
a thread: no more than there are grants, which :mod:`architect.daemon.peer.server` counts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from architect.core.errors import FormatError, NodeError
from architect.daemon.peer import protocol, records
from architect.daemon.peer.protocol import Grant
from architect.daemon.peer.records import Kind, Writer

log = logging.getLogger(__name__)

TICKET_SECONDS: Final = 10.0
"""From a grant to the connection that shows it."""

STALLED_SECONDS: Final = 20.0
"""How long who gets may take nothing."""

MAX_WAITING: Final = 256
"""Connections that have not shown a ticket; the oldest goes for another one."""

_LOOK_SECONDS: Final = 0.5
_BACKLOG: Final = 128


@dataclass(frozen=True, kw_only=True)
class FilePart:
    """A part of a file."""

    name: str
    """Below its directory."""
    offset: int
    length: int


@dataclass(frozen=True, kw_only=True)
class _Offer:
    node: str
    directory: Path
    parts: tuple[FilePart, ...]
    grant: Grant
    ends_at: float


@dataclass(kw_only=True)
class _Waiting:
    """A connection, and what it has shown of its ticket."""

    connection: socket.socket
    ends_at: float
    shown: bytearray = field(default_factory=bytearray)


class _Lobby:
    """Connections that have shown nothing yet. For one thread."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._waiting: dict[socket.socket, _Waiting] = {}

    def enter(self, connection: socket.socket) -> None:
        """Take a connection in; the one that waits longest goes if they are too many."""
        if len(self._waiting) >= MAX_WAITING:
            self._end(next(iter(self._waiting.values())))
        connection.setblocking(False)
        one = _Waiting(connection=connection, ends_at=time.monotonic() + TICKET_SECONDS)
        self._waiting[connection] = one
        self._selector.register(connection, selectors.EVENT_READ, one)

    def leave(self, one: _Waiting) -> None:
        """Let a connection go, which stays open."""
        self._selector.unregister(one.connection)
        del self._waiting[one.connection]

    def hear(self, one: _Waiting) -> bytes | None:
        """Return the ticket of who has something to say, once it is whole."""
        if one.connection not in self._waiting:
            return None  # it had to go since the selector named it
        try:
            data = one.connection.recv(protocol.TICKET_BYTES - len(one.shown))
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            self._end(one)
            return None
        one.shown += data
        return bytes(one.shown) if len(one.shown) == protocol.TICKET_BYTES else None

    def end_late_ones(self) -> None:
        """End those that have taken too long."""
        now = time.monotonic()
        for one in [one for one in self._waiting.values() if one.ends_at <= now]:
            self._end(one)

    def end_all(self) -> None:
        """End all that are left."""
        for one in tuple(self._waiting.values()):
            self._end(one)

    def _end(self, one: _Waiting) -> None:
        self.leave(one)
        one.connection.close()


class Outlet:
    """Listens at one port. Safe to use from several threads."""

    def __init__(self, *, sent: Callable[[int], None] = lambda _: None) -> None:
        self._sent = sent
        self._lock = threading.Lock()
        self._offers: dict[bytes, _Offer] = {}
        self._given: dict[socket.socket, str] = {}
        self._threads: set[threading.Thread] = set()
        self._stop = threading.Event()
        self._loop: threading.Thread | None = None
        self.port = 0
        """Where it listens."""
        self.told_port = 0
        """What grants say of that."""

    def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes a free one. Raises NodeError (reason ``CannotListen``)."""
        if is_all := host == "::":
            host = host if socket.has_dualstack_ipv6() else "0.0.0.0"
        is_v6 = ":" in host
        try:
            listener = socket.create_server(
                (host, port),
                family=socket.AF_INET6 if is_v6 else socket.AF_INET,
                backlog=_BACKLOG,
                dualstack_ipv6=is_all and is_v6,
            )
        except OSError as error:
            raise NodeError(
                f"cannot listen on {host} port {port}: {error.strerror or error}",
                reason="CannotListen",
                hint="is the port taken? see --peer-data-address",
            ) from error
        listener.setblocking(False)
        self.port = self.told_port = listener.getsockname()[1]
        self._loop = threading.Thread(
            target=self._listen, args=(listener,), name="peer-data", daemon=True
        )
        self._loop.start()

    def grant(self, node: str, directory: Path, parts: tuple[FilePart, ...]) -> Grant:
        """Offer *parts* of files in *directory* to *node*, in this order."""
        grant = Grant.make(self.told_port)
        offer = _Offer(
            node=node,
            directory=directory,
            parts=parts,
            grant=grant,
            ends_at=time.monotonic() + TICKET_SECONDS,
        )
        with self._lock:
            self._offers[grant.ticket] = offer
        return grant

    def count(self, node: str) -> int:
        """Return how many grants *node* has, or is getting, at this moment."""
        with self._lock:
            nodes = [offer.node for offer in self._offers.values()] + list(self._given.values())
        return nodes.count(node)

    @property
    def is_busy(self) -> bool:
        """Whether anybody gets something, or is about to."""
        with self._lock:
            return bool(self._offers or self._given)

    def stop(self, *, grace_seconds: float = 1.0) -> None:
        """End; what is given at this moment has *grace_seconds*."""
        if self._loop is None:
            return
        self._stop.set()
        self._loop.join()
        end = time.monotonic() + grace_seconds
        with self._lock:
            threads = tuple(self._threads)
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        with self._lock:
            left = tuple(self._given)
        for connection in left:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

    # Who connects

    def _listen(self, listener: socket.socket) -> None:
        with listener, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            waiting = _Lobby(selector)
            while not self._stop.is_set():
                for key, _ in selector.select(_LOOK_SECONDS):
                    if key.fileobj is listener:
                        self._accept(listener, waiting)
                    elif (ticket := waiting.hear(key.data)) is not None:
                        self._begin(waiting, key.data, ticket)
                waiting.end_late_ones()
                self._forget_late_ones()
            waiting.end_all()
        self._forget_late_ones(float("inf"))

    def _accept(self, listener: socket.socket, lobby: _Lobby) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            # No descriptor is left, or the caller has gone. The former does not pass by itself.
            log.debug("accept: %s", error)
            self._stop.wait(0.01)
            return
        lobby.enter(connection)

    def _begin(self, lobby: _Lobby, one: _Waiting, ticket: bytes) -> None:
        with self._lock:
            offer = self._offers.pop(ticket, None)
            if offer is not None:
                self._given[one.connection] = offer.node
        lobby.leave(one)
        if offer is None:
            one.connection.close()
            return
        thread = threading.Thread(
            target=self._give, args=(one.connection, offer), name="peer-give", daemon=True
        )
        with self._lock:
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as error:  # no more processes: whoever listens must not end of it
            log.error("%s to node %s: %s", offer.directory.name, offer.node, error)
            with self._lock:
                self._threads.discard(thread)
                del self._given[one.connection]
            one.connection.close()

    def _forget_late_ones(self, now: float | None = None) -> None:
        """Give up the offers that nobody has come for."""
        now = time.monotonic() if now is None else now
        with self._lock:
            late = [ticket for ticket, offer in self._offers.items() if offer.ends_at <= now]
            for ticket in late:
                del self._offers[ticket]

    # Who gets

    def _give(self, connection: socket.socket, offer: _Offer) -> None:
        try:
            records.block(connection, STALLED_SECONDS)
            self._send(connection, offer)
        except OSError as error:
            log.info("%s to node %s: %s", offer.directory.name, offer.node, error)
        finally:
            connection.close()
            with self._lock:
                del self._given[connection]
                self._threads.discard(threading.current_thread())

    def _send(self, connection: socket.socket, offer: _Offer) -> None:
        most = min(max(part.length for part in offer.parts), records.RECORD_BYTES)
        writer = Writer(connection, offer.grant.key, most=max(most, records.MAX_PROBLEM_BYTES))
        ends_at = time.monotonic() + protocol.CALL_SECONDS
        for part in offer.parts:
            try:
                for data in _read(offer.directory / part.name, part, writer.room[:most]):
                    if time.monotonic() > ends_at:
                        raise TimeoutError(f"not over after {protocol.CALL_SECONDS:.0f} s")
                    writer.send(Kind.DATA, data)
                    self._sent(len(data))
            except FormatError as error:
                log.error("checkpoint %s: %s", offer.directory.name, error)
                writer.send(Kind.PROBLEM, str(error).encode()[: records.MAX_PROBLEM_BYTES])
                return


def _read(path: Path, part: FilePart, buffer: memoryview) -> Iterator[memoryview]:
    """Yield the bytes of *part*, in *buffer*. Raises FormatError if they cannot be had."""
    at, end = part.offset, part.offset + part.length
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise FormatError(f"{part.name}: {error.strerror}") from error
    try:
        while at < end:
            try:
                count = os.preadv(fd, [buffer[: end - at]], at)
            except OSError as error:
                raise FormatError(f"{part.name}: {error.strerror}") from error
            if not count:
                raise FormatError(f"{part.name} ends at {at} instead of {end}")
            yield buffer[:count]
            at += count
    finally:
        os.close(fd)
