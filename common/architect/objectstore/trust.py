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

from architect.cloud import addresses
from architect.objectstore.settings import StoreSettings

CONNECT_SECONDS: Final = 3.0
"""For each step of the connection."""


def problem_with(settings: StoreSettings) -> str:
    """Return what is wrong with the server's certificate; empty: nothing, or it did not answer."""
    if not settings.is_encrypted:
        return ""
    address = urllib.parse.urlsplit(f"//{settings.host}")
    name = address.hostname or ""
    try:
        with (
            socket.create_connection((name, address.port or 443), CONNECT_SECONDS) as link,
            addresses.tls_context(settings.ca_file).wrap_socket(link, server_hostname=name),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        return f"{name}: {error.verify_message}"
    except OSError:
        return ""
