"""The TLS side: a node's own certificate around the dialogue inside.

Kubelet does not verify what a probed server presents (``InsecureSkipVerify`` in
pkg/probe/http), so one self-signed certificate per node serves every pod. Kubelet's client
offers ``h2`` and ``http/1.1``; only the latter is accepted, so that what follows is HTTP/1.1.

``ssl`` is imported with the first HTTPS probe: most nodes have none and are spared libssl.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from architect.shim.standin.dialogue import Dialogue, Kind, Progress

if TYPE_CHECKING:
    import ssl

HANDSHAKE_LIMIT_BYTES = 64 * 1024
"""More than any client hello, with post-quantum key shares, and less than OpenSSL would take."""

_RECORD_BYTES = 16384

ALERT_INTERNAL_ERROR = b"\x15\x03\x01\x00\x02\x02\x50"
"""A fatal alert record (RFC 8446, section 6): tells the client why it is hung up on."""


class Certificate:
    """A PEM file with a certificate and its unencrypted key, read when first needed.

    One object serves all pods of a node. A file that has changed is read again; one that is
    missing or unusable is tried again at the next use, and :attr:`problem` says what is wrong.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._context: ssl.SSLContext | None = None
        self._identity: tuple[int, int, int] | None = None
        self.problem: str | None = None

    def context(self) -> ssl.SSLContext | None:
        """Return the server's TLS context, or None while the file cannot be used."""
        try:
            stat = self._path.stat()
            identity = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if self._context is None or identity != self._identity:
                self._context = _load(self._path)
                self._identity = identity
        except OSError as error:  # ssl.SSLError is one
            self.problem = (
                f"cannot use {self._path} for https probes: {error.strerror or error} "
                "(hint: the daemon writes it when it installs the runtime)"
            )
            return None
        self.problem = None
        return self._context


class Tls:
    """Carries another dialogue inside TLS."""

    def __init__(self, inner: Dialogue, *, context: ssl.SSLContext) -> None:
        import ssl

        self._ssl = ssl
        self._inner = inner
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._handshake_bytes: int | None = 0
        self._failed = False

    @property
    def progress(self) -> Progress:
        """How far the dialogue inside is."""
        return Progress.FAILED if self._failed else self._inner.progress

    @property
    def kind(self) -> Kind | None:
        """What the dialogue inside is; HTTP inside TLS is HTTPS."""
        if self._inner.kind is None and self._failed:
            return Kind.UNKNOWN
        return Kind.HTTPS if self._inner.kind is Kind.HTTP else self._inner.kind

    def receive(self, data: bytes) -> bytes:
        """Take TLS records in pieces of any size and return TLS records."""
        if self._failed:
            return b""
        self._incoming.write(data)
        try:
            self._handshake(len(data))
            while self._handshake_bytes is None:
                plain = self._tls.read(_RECORD_BYTES)
                if not plain:
                    break
                self._say(self._inner.receive(plain))
        except self._ssl.SSLWantReadError:
            pass
        except self._ssl.SSLError:
            self._failed = True
        return self._outgoing.read()

    def application_is_back(self) -> bytes:
        """Return what the dialogue inside says, as TLS records."""
        try:
            self._say(self._inner.application_is_back())
        except self._ssl.SSLError:
            self._failed = True
        return self._outgoing.read()

    def _handshake(self, received_bytes: int) -> None:
        if self._handshake_bytes is None:
            return
        self._handshake_bytes += received_bytes
        if self._handshake_bytes > HANDSHAKE_LIMIT_BYTES:
            self._failed = True
            return
        self._tls.do_handshake()
        self._handshake_bytes = None

    def _say(self, plain: bytes) -> None:
        if not plain:
            return
        self._tls.write(plain)
        if self._inner.progress is Progress.ANSWERED:
            # close_notify marks the end; that the peer has not sent its own yet is no error.
            with contextlib.suppress(self._ssl.SSLWantReadError):
                self._tls.unwrap()


def _load(path: Path) -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # An empty password: an encrypted key must be an error, not a question on the terminal.
    context.load_cert_chain(path, password="")
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION
    # A prober never resumes a session, and tickets would double the bytes of a handshake.
    context.num_tickets = 0
    return context
