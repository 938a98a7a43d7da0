"""Whether the object store's certificate is one that we take.

awscrt does not say: its TLS library answers a certificate that it does not take with a pause of up
to 30 s, so as to tell an attacker nothing, and a request ends by its deadline. Who was let down so
asks here, where the standard library makes one connection and says at once what it thinks.
"""

from __future__ import annotations

import socket
import ssl
import urllib.parse
from typing import Final

from architect.core.errors import ConfigError
from architect.core.tls import without_strictness
from architect.objectstore.settings import StoreSettings

CONNECT_SECONDS: Final = 3.0
"""For each step of the connection."""


def context_of(settings: StoreSettings) -> ssl.SSLContext:
    """Return what a server of *settings* is judged by. Raises ConfigError."""
    try:
        # As strict as the libraries that then use the store, and not more.
        return without_strictness(ssl.create_default_context(cafile=settings.ca_file or None))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"CA file {settings.ca_file!r:.300} cannot be used: {error}",
            hint="a PEM file with at least one certificate",
        ) from error


def problem_with(settings: StoreSettings) -> str:
    """Return what is wrong with the server's certificate; empty: nothing, or it did not answer."""
    if not settings.is_encrypted:
        return ""
    address = urllib.parse.urlsplit(f"//{settings.host}")
    name = address.hostname or ""
    try:
        with (
            socket.create_connection((name, address.port or 443), CONNECT_SECONDS) as link,
            context_of(settings).wrap_socket(link, server_hostname=name),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        return f"{name}: {error.verify_message}"
    except OSError:
        return ""
