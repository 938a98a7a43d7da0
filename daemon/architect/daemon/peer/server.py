"""Decides which other nodes' daemons get this node's checkpoints, some parts a call.

Who calls is known from the certificate that TLS has verified. Every call is decided anew by
*may_read*, before it is said whether there is such a checkpoint at all. The bytes themselves are
the outlet's.
"""

from __future__ import annotations

import collections
import concurrent.futures
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn

import grpc

from architect.checkpoint import manifest as manifests
from architect.checkpoint.manifest import Manifest
from architect.core.errors import ArchitectError, FormatError, NodeError
from architect.daemon.checkpoint import contents
from architect.daemon.peer import protocol
from architect.daemon.peer.credentials import Credentials
from architect.daemon.peer.outlet import FilePart, Outlet
from architect.daemon.settings import host_port
from architect.pki import certificates, node_identity

log = logging.getLogger(__name__)

THREADS: Final = 32
"""Calls that are answered at once. One waits for its turn behind them, without a thread."""

MAX_CALLS: Final = 128
"""Calls answered or waiting; more are turned away, and come again."""

MAX_CALLS_OF_A_NODE: Final = 16
"""And grants that it gets, together, so that one node cannot take all. Twice of what a daemon
opens."""

KNOWN_MANIFESTS: Final = 32
"""Manifests kept in memory: each segment asks for its checkpoint's."""

MayRead = Callable[[str, str], bool]
"""``(node, id)``: whether the daemon of *node* may read checkpoint *id*. May raise ArchitectError,
which is answered as "not now"."""

Locate = Callable[[str], Path | None]
"""The directory of a checkpoint on this node."""


@dataclass(frozen=True, kw_only=True)
class _Known:
    """A manifest, and which file it was read from."""

    mark: tuple[int, int, int]
    raw: bytes
    manifest: Manifest


class PeerServer:
    """One server. Its certificate is read anew at each handshake."""

    def __init__(
        self,
        *,
        credentials: Callable[[], Credentials],
        locate: Locate,
        may_read: MayRead,
        sent: Callable[[int], None] = lambda _: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._credentials = credentials
        self._locate = locate
        self._may_read = may_read
        self._outlet = Outlet(sent=sent)
        self._clock = clock
        self._lock = threading.Lock()
        self._calls: collections.Counter[str] = collections.Counter()
        self._known: collections.OrderedDict[Path, _Known] = collections.OrderedDict()
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None
        self._server: Any = None
        self.port = 0
        """Where it listens."""

    @property
    def outlet(self) -> Outlet:
        """What gives the bytes."""
        return self._outlet

    def start(self, address: str, *, data_address: str) -> None:
        """Listen on ``address:port``, and for who gets bytes on another; port 0 takes a free one.

        Raises NodeError (reason ``CannotListen``), Unavailable without a certificate.
        """
        last = [self._credentials()]

        def changed() -> Any:
            """Return a configuration if the last one is outdated; gRPC asks at each handshake."""
            try:
                found = self._credentials()
            except ArchitectError as error:
                log.warning("%s", error)
                return None  # the old one has ended, and the other side will see that
            if found is last[0]:
                return None
            last[0] = found
            return _configuration(found)

        self._pool = concurrent.futures.ThreadPoolExecutor(THREADS, "peer-call")
        server = grpc.server(
            self._pool, options=_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS, compression=None
        )
        handlers = {
            protocol.DESCRIBE: grpc.unary_unary_rpc_method_handler(self._describe),
            protocol.READ: grpc.unary_unary_rpc_method_handler(self._read),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(protocol.SERVICE, handlers),)
        )
        secured = grpc.dynamic_ssl_server_credentials(
            _configuration(last[0]), changed, require_client_authentication=True
        )
        try:
            self.port = server.add_secure_port(address, secured)
        except RuntimeError as error:
            self._pool.shutdown()
            raise NodeError(
                f"cannot listen on {address}: {error}",
                reason="CannotListen",
                hint="is the port taken? see --peer-address",
            ) from error
        try:
            self._outlet.start(*host_port(data_address, name="peer_data_address"))
        except NodeError:
            server.stop(None)
            self._pool.shutdown()
            raise
        self._server = server
        server.start()
        log.info(
            "serving checkpoints to other nodes on ports %d and %d", self.port, self._outlet.port
        )

    @property
    def is_serving(self) -> bool:
        """Whether a node gets something at this moment."""
        return bool(self._calls) or self._outlet.is_busy

    def stop(self, *, grace_seconds: float = 1.0) -> None:
        """End; calls under way have *grace_seconds*. Their callers go on where they were."""
        if self._server is None or self._pool is None:
            return
        self._server.stop(grace_seconds).wait()
        self._outlet.stop(grace_seconds=grace_seconds)
        self._pool.shutdown(wait=True)
        self._server = None

    # Calls

    def _describe(self, raw: bytes, context: Any) -> bytes:
        node = self._admit(context)
        try:
            request = protocol.DescribeRequest.from_bytes(raw)
        except FormatError as error:
            _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        _, known = self._open(node, request.id, context)
        return known.raw

    def _read(self, raw: bytes, context: Any) -> bytes:
        node = self._admit(context)
        try:
            request = protocol.ReadRequest.from_bytes(raw)
        except FormatError as error:
            _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        directory, known = self._open(node, request.id, context)
        pieces = known.manifest.pieces
        for part in request.parts:
            if part.piece >= len(pieces):
                _abort(context, grpc.StatusCode.OUT_OF_RANGE, f"there is no piece {part.piece}")
            piece = pieces[part.piece]
            if part.offset + part.length > piece.size:
                text = f"{piece.name} has {piece.size} bytes"
                _abort(context, grpc.StatusCode.OUT_OF_RANGE, text)
        parts = tuple(
            FilePart(name=pieces[part.piece].name, offset=part.offset, length=part.length)
            for part in request.parts
        )
        return self._outlet.grant(node, directory, parts).to_bytes()

    def _admit(self, context: Any) -> str:
        """Return the node that calls, or end the call."""
        node = self._node_of(context)
        left = context.time_remaining()
        if left is None or left > protocol.CALL_SECONDS + 5:
            _abort(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                f"a call needs a deadline of at most {protocol.CALL_SECONDS:.0f} s",
            )
        with self._lock:
            is_too_many = self._calls[node] + self._outlet.count(node) >= MAX_CALLS_OF_A_NODE
            if not is_too_many:
                self._calls[node] += 1
        if is_too_many:
            _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls of one node")
        if not context.add_callback(lambda: self._left(node)):
            self._left(node)
            _abort(context, grpc.StatusCode.CANCELLED, "the call has ended")
        return node

    def _left(self, node: str) -> None:
        with self._lock:
            self._calls[node] -= 1
            if self._calls[node] <= 0:
                del self._calls[node]

    def _node_of(self, context: Any) -> str:
        """Return whose certificate it is. TLS verified its chain as the connection was made."""
        pem = context.auth_context().get("x509_pem_cert") or ()
        try:
            (certificate,) = certificates.read_certificates(pem[0] if pem else b"")
            if certificate.not_valid_after_utc <= self._clock():
                raise FormatError("the certificate has ended since the connection was made")
            return node_identity.node_of(certificate)
        except (FormatError, ValueError) as error:
            _abort(context, grpc.StatusCode.UNAUTHENTICATED, str(error))

    def _open(self, node: str, checkpoint_id: str, context: Any) -> tuple[Path, _Known]:
        """Return the checkpoint, or end the call."""
        try:
            is_allowed = self._may_read(node, checkpoint_id)
        except ArchitectError as error:
            log.warning("whether node %s may read %s: %s", node, checkpoint_id, error)
            _abort(context, grpc.StatusCode.UNAVAILABLE, "cannot be decided now")
        if not is_allowed:
            log.warning("node %s asked for checkpoint %s, not its own", node, checkpoint_id)
            _abort(context, grpc.StatusCode.PERMISSION_DENIED, f"not for node {node}")
        directory = self._locate(checkpoint_id)
        try:
            known = None if directory is None else self._manifest(directory)
        except (FormatError, OSError) as error:
            log.error("checkpoint %s: %s", checkpoint_id, error)
            _abort(context, grpc.StatusCode.DATA_LOSS, "its manifest cannot be read")
        if directory is None or known is None:
            _abort(context, grpc.StatusCode.NOT_FOUND, "it is not on this node")
        return directory, known

    def _manifest(self, directory: Path) -> _Known | None:
        path = directory / manifests.NAME
        try:
            info = os.stat(path)
        except FileNotFoundError:
            return None
        mark = (info.st_ino, info.st_mtime_ns, info.st_size)
        with self._lock:
            known = self._known.get(directory)
            if known is not None and known.mark == mark:
                self._known.move_to_end(directory)
                return known
        manifest = contents.read(directory)
        known = _Known(mark=mark, raw=manifests.to_bytes(manifest), manifest=manifest)
        with self._lock:
            self._known[directory] = known
            while len(self._known) > KNOWN_MANIFESTS:
                self._known.popitem(last=False)
        return known


def _configuration(credentials: Credentials) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(credentials.key, credentials.certificate)], root_certificates=credentials.authorities
    )


def _abort(context: Any, code: Any, details: str) -> NoReturn:
    context.abort(code, details)
    raise AssertionError("abort raises")


_OPTIONS: Final = (
    # A port that another process has is an error, and not shared with it.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", protocol.MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", protocol.MAX_ANSWER_BYTES),
    ("grpc.max_metadata_size", protocol.MAX_METADATA_BYTES),
    ("grpc.max_concurrent_streams", MAX_CALLS_OF_A_NODE),
    ("grpc.keepalive_time_ms", int(protocol.KEEPALIVE_SECONDS * 1000)),
    ("grpc.keepalive_timeout_ms", int(protocol.KEEPALIVE_SECONDS * 1000)),
    ("grpc.http2.min_ping_interval_without_data_ms", int(protocol.KEEPALIVE_SECONDS * 500)),
    ("grpc.http2.max_pings_without_data", 0),
)
