"""Who a daemon is to other daemons: its node, in one DNS name of its certificate.

A DNS name and no URI, because TLS libraries compare one with whom they meant to call. The name is
never resolved. ``.internal`` belongs to nobody for ever. The common name is the same for all, since
64 characters would not hold a node's name, and is not looked at.
"""

from __future__ import annotations

import re
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from architect.core.errors import FormatError
from architect.pki.certificates import PrivateKey

COMMON_NAME: Final = "architect-daemon"
SUFFIX: Final = ".node.architect.internal"

MAX_NODE_CHARS: Final = 253 - len(SUFFIX)
"""A DNS name has 253 characters; TLS sends it as the server's name."""

USAGES: Final = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
"""A daemon is both, by turns."""

REQUEST_USAGES: Final = ("client auth", "server auth")
"""The same as a CertificateSigningRequest says it."""

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_NODE = re.compile(rf"{_LABEL}(\.{_LABEL})*")


def dns_name_of(node: str) -> str:
    """Return the name in the certificate of *node*'s daemon. Raises FormatError."""
    if not _NODE.fullmatch(node) or len(node) > MAX_NODE_CHARS:
        raise FormatError(
            f"{node[:300]!r} cannot stand in a certificate",
            hint=f"a node's name is a DNS subdomain; of at most {MAX_NODE_CHARS} characters here",
        )
    return node + SUFFIX


def node_of(certificate: x509.Certificate) -> str:
    """Return the node that *certificate* is for; who signed it, and when, is not looked at.

    Raises FormatError unless it is exactly as an operator issues it.
    """
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
        ValueError,
    ) as error:
        raise FormatError(f"not a daemon's certificate: {error}") from error
    if set(usages) != set(USAGES):
        raise FormatError("not a daemon's certificate: it is for other uses")
    return node_of_names(names)


def node_of_names(names: x509.SubjectAlternativeName) -> str:
    """Return the node that the only one of *names* is of. Raises FormatError."""
    found = list(names)
    if len(found) != 1 or not isinstance(found[0], x509.DNSName):
        raise FormatError("not a daemon's certificate: it has other names than one DNS name")
    name = str(found[0].value)
    node = name.removesuffix(SUFFIX)
    if not name.endswith(SUFFIX) or not _NODE.fullmatch(node):
        raise FormatError(f"not a daemon's certificate: {name[:300]!r} is not a node's name there")
    return node


def make_request(key: PrivateKey, node: str) -> bytes:
    """Return the certificate signing request (PEM) of *node*'s daemon. Raises FormatError."""
    name = dns_name_of(node)
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, COMMON_NAME)]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
