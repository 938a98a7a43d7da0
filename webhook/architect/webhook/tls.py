"""A TLS context whose certificate changes under a running server.

Each new handshake takes the newest certificate; connections that exist go on with theirs. A pair
that does not fit (files read in the middle of their renewal) leaves the old one in place.
"""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime

from architect.core.errors import FormatError
from architect.pki.certificates import read_certificates
from architect.webhook.rotation import Pair


class ServingContext:
    """The context to give to the server (``outer``), and the certificate behind it."""

    def __init__(self) -> None:
        self.outer = _fresh_context()
        # Called in every handshake, with or without a server name. Loading a second certificate
        # into a live context instead would keep the old one for clients of the other key type,
        # and a pair that does not fit would break it.
        self.outer.sni_callback = self._choose
        self.not_after: datetime | None = None
        self._current: ssl.SSLContext | None = None
        self._pair: Pair | None = None

    def load(self, pair: Pair) -> bool:
        """Serve *pair* from the next handshake on; tell whether it is another than before.

        Raises FormatError, and keeps what was served, if certificate and key are not a pair.
        """
        if pair == self._pair:
            return False
        leaf = read_certificates(pair.certificate)[0]
        context = _fresh_context()
        _load(context, pair)
        self._current = context
        self._pair = pair
        self.not_after = leaf.not_valid_after_utc
        return True

    def why_not_ready(self) -> str | None:
        """Return why handshakes fail now, None if they do not."""
        if self.not_after is None:
            return "no certificate yet"
        if self.not_after <= datetime.now(UTC):
            return f"certificate has expired at {self.not_after.isoformat()}"
        return None

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _outer: ssl.SSLContext) -> None:
        if self._current is not None:
            connection.context = self._current


def _fresh_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _load(context: ssl.SSLContext, pair: Pair) -> None:
    # The module reads certificates from files only; a memory file keeps the key off every disk
    # and works under a read-only root.
    descriptor = os.memfd_create("architect-webhook-tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(pair.certificate.rstrip() + b"\n" + pair.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except (ssl.SSLError, OSError) as error:
        raise FormatError(
            f"certificate and key cannot be used together: {error.strerror or error}"
        ) from error
    finally:
        os.close(descriptor)
