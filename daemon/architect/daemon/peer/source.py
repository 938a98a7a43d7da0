"""Another node's daemon during one transfer: the connection, and the patience with it."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc

from architect.core.errors import (
    ArchitectError,
    FormatError,
    Rejected,
    Retryable,
    Unavailable,
)
from architect.daemon.peer import protocol, records
from architect.daemon.peer.credentials import Credentials
from architect.daemon.peer.protocol import Grant
from architect.daemon.peer.records import Kind, Reader
from architect.kube.watch import Backoff
from architect.pki import node_identity

log = logging.getLogger(__name__)

CONNECT_SECONDS: Final = 5.0
"""To a machine that does not answer at all."""

WATCH_SECONDS: Final = 0.5
"""Between two looks at whether anything still comes."""

MAX_DETAILS_CHARS: Final = 500
"""Of what the other side, or gRPC, says in an error."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class Link:
    """To a node's daemon: the channel for calls, and where the bytes come from."""

    channel: Any
    host: str


class Source:
    """One node's daemon during one transfer: the connection, and the patience with it."""

    def __init__(
        self,
        node: str,
        *,
        dial: Callable[[], Link],
        suspect: Callable[[], None],
        patience_seconds: float,
        ends_at: float,
    ) -> None:
        self.node = node
        self.breaks = 0
        self._dial = dial
        self._suspect = suspect
        self._patience_seconds = patience_seconds
        self._ends_at = ends_at
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._calls: set[Any] = set()
        self._connections: set[socket.socket] = set()
        self._cancelled = threading.Event()
        self._busy = 0
        self._problem = ""
        self._moved_at = time.monotonic()

    def moves(self) -> None:
        """Note that something has come."""
        self._moved_at = time.monotonic()

    def check(self) -> None:
        """Raise Unavailable if the source is to be given up."""
        now = time.monotonic()
        if self._cancelled.is_set():
            raise Unavailable(f"the transfer from node {self.node} has ended")
        if now > self._ends_at:
            raise Unavailable(f"the transfer from node {self.node} took too long")
        if self._busy and now - self._moved_at > self._patience_seconds:
            raise Unavailable(
                f"the daemon of node {self.node} gave nothing for {self._patience_seconds:.0f} s"
                + (f"; the last attempt: {self._problem}" if self._problem else "")
            )

    @contextlib.contextmanager
    def slot(self, slots: threading.Semaphore) -> Iterator[None]:
        """Hold one of *slots*. Raises Unavailable if the transfer ends before there is one."""
        while not slots.acquire(timeout=WATCH_SECONDS):
            self.check()
        try:
            with self.at_work():
                yield
        finally:
            slots.release()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Expect that something comes, from now on. Who waits for a slot expects nothing."""
        self.moves()
        with self._lock:
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1

    def patiently(self, what: str, work: Callable[[Link], T]) -> T:
        """Return what *work* makes of a connection; again, after a pause, each time that breaks.

        Raises what cannot be retried, and the last failure once patience is at its end.
        """
        backoff = Backoff(first_seconds=0.1, max_seconds=1.0)
        while True:
            link, is_alive = None, False
            try:
                link = self._connected()
                return work(link)
            except grpc.RpcError as error:
                problem = self._translated(error, what)
                is_alive = error.code() in _ALIVE
                cause: Exception = error
            except Retryable as error:
                problem, cause = error, error
            if not isinstance(problem, Retryable):
                raise problem from cause
            with self._lock:
                self.breaks += 1
                self._problem = str(problem)
            log.info("%s; once more", problem)
            if not is_alive:
                self._drop(link)
            try:
                self.check()
            except Unavailable:
                raise problem from cause
            self._cancelled.wait(backoff.next())

    def stream(self, link: Link, request: protocol.ReadRequest) -> Generator[memoryview]:
        """Yield the bytes of some parts, each time good until the next, and none of two parts.

        To be closed by who does not take them all.

        Raises grpc.RpcError, Unavailable, FormatError for what the other side says of its disk.
        """
        try:
            grant = Grant.from_bytes(self._call(link, protocol.READ, request.to_bytes()))
            with self._connect(link.host, grant) as connection:
                yield from self._receive(connection, grant, request.length)
        except OSError as error:
            raise Unavailable(
                f"bytes of {request.id} from node {self.node}: {error.strerror or error}"
            ) from error

    @contextlib.contextmanager
    def _connect(self, host: str, grant: Grant) -> Iterator[socket.socket]:
        try:
            made = socket.create_connection((host, grant.port), CONNECT_SECONDS)
        except OSError as error:
            raise Unavailable(
                f"cannot reach {host} port {grant.port}, where node {self.node} gives what it "
                f"grants: {error.strerror or error}",
                hint="does a network policy or a firewall let daemon.peerDataPort through?",
            ) from error
        with made as connection:
            # A machine that lost its power says nothing any more, and waits for nothing.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
                connection.setsockopt(socket.IPPROTO_TCP, option, int(protocol.KEEPALIVE_SECONDS))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1)
            records.block(connection, self._call_seconds(protocol.CALL_SECONDS))
            with self._lock:
                self._connections.add(connection)
            try:
                if self._cancelled.is_set():
                    raise Unavailable(f"the transfer from node {self.node} has ended")
                connection.sendall(grant.ticket)
                yield connection
            finally:
                with self._lock:
                    self._connections.discard(connection)

    def _receive(
        self, connection: socket.socket, grant: Grant, length: int
    ) -> Iterator[memoryview]:
        reader = Reader(connection, grant.key)
        while length > 0:
            kind, data = reader.receive()
            if kind is Kind.PROBLEM:
                text = bytes(data[:MAX_DETAILS_CHARS]).decode(errors="replace")
                raise FormatError(f"node {self.node} says: {text}")
            yield data
            length -= len(data)

    def ask(self, link: Link, request: protocol.DescribeRequest) -> bytes:
        """Return a manifest's bytes. Raises grpc.RpcError, Unavailable."""
        return self._call(link, protocol.DESCRIBE, request.to_bytes())

    def _call(self, link: Link, name: str, raw: bytes) -> bytes:
        method = link.channel.unary_unary(protocol.method(name))
        try:
            call = method.future(raw, timeout=self._call_seconds(self._patience_seconds))
        except ValueError as error:
            # Another thread found the connection broken and closed it, a moment ago.
            raise Unavailable(f"the connection to node {self.node} was closed") from error
        with self._lock:
            self._calls.add(call)
        try:
            if self._cancelled.is_set():
                call.cancel()
            answer: bytes = call.result()
            return answer
        except grpc.FutureCancelledError as error:
            raise Unavailable(f"the transfer from node {self.node} has ended") from error
        finally:
            with self._lock:
                self._calls.discard(call)

    def cancel(self) -> None:
        """End all calls, and let none begin."""
        self._cancelled.set()
        with self._lock:
            calls, connections = tuple(self._calls), tuple(self._connections)
        for call in calls:
            call.cancel()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End everything."""
        self.cancel()
        self._drop(self._link)

    def _call_seconds(self, most: float) -> float:
        return max(0.001, min(most, protocol.CALL_SECONDS, self._ends_at - time.monotonic()))

    def _connected(self) -> Link:
        with self._lock:
            if self._link is None:
                self._link = self._dial()
            return self._link

    def _drop(self, link: Link | None) -> None:
        """Forget a connection, unless another thread has replaced it already."""
        with self._lock:
            if link is None or link is not self._link:
                return
            self._link = None
        link.channel.close()

    def _translated(self, error: Any, what: str) -> ArchitectError:
        code, details = error.code(), str(error.details() or "")[:MAX_DETAILS_CHARS]
        text = f"cannot {what} from node {self.node}: {code.name}: {details}"
        if any(mark in details for mark in _UNTRUSTED):
            self._suspect()
            return Rejected(
                text, reason="Untrusted", hint="not the daemon of that node, or another authority"
            )
        if _DISTRUST.search(details):
            self._suspect()
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
            return FormatError(text)
        if (reason := _REASONS.get(code)) is not None:
            return Rejected(text, reason=reason)
        if code in (grpc.StatusCode.DATA_LOSS, grpc.StatusCode.OUT_OF_RANGE):
            return FormatError(text)
        return Unavailable(text)


def dial(node: str, address: str, mine: Credentials) -> Link:
    """Return a link to the daemon of *node* at ``address:port``, and to nobody else."""
    secured = grpc.ssl_channel_credentials(
        root_certificates=mine.authorities,
        private_key=mine.key,
        certificate_chain=mine.certificate,
    )
    name = ("grpc.ssl_target_name_override", node_identity.dns_name_of(node))
    # An address, about which no resolver is asked.
    scheme = "ipv6" if address.startswith("[") else "ipv4"
    channel = grpc.secure_channel(f"{scheme}:{address}", secured, options=(*_OPTIONS, name))
    return Link(channel=channel, host=address.rpartition(":")[0].strip("[]"))


_REASONS: Final = {
    grpc.StatusCode.PERMISSION_DENIED: "NotAllowed",
    grpc.StatusCode.UNAUTHENTICATED: "NotAllowed",
    grpc.StatusCode.NOT_FOUND: "UnknownCheckpoint",
    grpc.StatusCode.UNIMPLEMENTED: "UnknownVersion",
    grpc.StatusCode.INVALID_ARGUMENT: "BadRequest",
}

_ALIVE: Final = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)
"""The call ended and the connection did not: other calls go on over it."""

_UNTRUSTED: Final = ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification Check failed")
"""In what gRPC says of a server whose certificate it did not take; it has no code for it."""

_DISTRUST: Final = re.compile("failed to connect to all addresses.*Socket closed")
"""What it says where the server did not take our certificate; or ended at that moment."""

_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    # Else two channels to one address share a connection, and with it a certificate.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", protocol.MAX_ANSWER_BYTES),
    ("grpc.max_metadata_size", protocol.MAX_METADATA_BYTES),
    ("grpc.keepalive_time_ms", int(protocol.KEEPALIVE_SECONDS * 1000)),
    ("grpc.keepalive_timeout_ms", int(protocol.KEEPALIVE_SECONDS * 1000)),
    ("grpc.http2.max_pings_without_data", 0),
    # The least time between two attempts, which is also the most that one may take.
    ("grpc.min_reconnect_backoff_ms", int(CONNECT_SECONDS * 1000)),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
