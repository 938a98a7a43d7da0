"""Which protocol a conversation speaks, by its first bytes.

One port may be probed by several kinds, so the choice is made for each connection anew.
"""

from __future__ import annotations

from collections.abc import Callable

from architect.shim.standin.dialogue import Dialogue, HealthSource, Kind, Progress
from architect.shim.standin.http1 import Http1
from architect.shim.standin.http2 import PREFACE, Http2
from architect.shim.standin.tls import ALERT_INTERNAL_ERROR, Certificate, Tls

_TLS_HANDSHAKE = 0x16
"""First byte of a client hello's record (RFC 8446, section 5.1)."""


class Refusal:
    """A conversation that ends with its first words."""

    progress = Progress.FAILED

    def __init__(self, kind: Kind, *, last_words: bytes = b"") -> None:
        self.kind: Kind | None = kind
        self._last_words = last_words

    def receive(self, data: bytes) -> bytes:
        """Return the last words once, whatever the peer says."""
        words, self._last_words = self._last_words, b""
        return words

    def application_is_back(self) -> bytes:
        """Return nothing."""
        return b""


class Sniffer:
    """Waits for enough bytes to know the protocol, then is that protocol."""

    def __init__(
        self,
        health: HealthSource,
        *,
        certificate: Certificate | None,
        on_missing_certificate: Callable[[], None] | None = None,
    ) -> None:
        self._health = health
        self._certificate = certificate
        self._on_missing_certificate = on_missing_certificate
        self._start = b""
        self._chosen: Dialogue | None = None

    @property
    def progress(self) -> Progress:
        """How far the chosen dialogue is."""
        return self._chosen.progress if self._chosen else Progress.LISTENING

    @property
    def kind(self) -> Kind | None:
        """What the chosen dialogue is."""
        return self._chosen.kind if self._chosen else None

    def receive(self, data: bytes) -> bytes:
        """Take the peer's next bytes and return what to send."""
        if self._chosen is None:
            self._start += data
            self._chosen = self._choose(self._start)
            if self._chosen is None:
                return b""
            data, self._start = self._start, b""
        return self._chosen.receive(data)

    def application_is_back(self) -> bytes:
        """Return what to send to a request that waited for the application."""
        return self._chosen.application_is_back() if self._chosen else b""

    def _choose(self, start: bytes) -> Dialogue | None:
        if start.startswith(PREFACE):
            return Http2(self._health)
        if PREFACE.startswith(start):  # nothing yet, or also the start of POST, PUT, PATCH
            return None
        if start[0] == _TLS_HANDSHAKE:
            return self._tls()
        if b"A" <= start[:1] <= b"Z":
            return Http1(self._health)
        return Refusal(Kind.UNKNOWN)

    def _tls(self) -> Dialogue:
        context = self._certificate.context() if self._certificate else None
        if context is None:
            if self._on_missing_certificate:
                self._on_missing_certificate()
            return Refusal(Kind.HTTPS, last_words=ALERT_INTERNAL_ERROR)
        # TLS inside TLS is nobody's protocol: without a certificate it is refused.
        return Tls(Sniffer(self._health, certificate=None), context=context)
