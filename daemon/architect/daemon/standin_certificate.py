"""The certificate with which HTTPS probes of sleeping pods are answered.

Kubelet does not verify the certificate of a probe's target, so a self-signed one serves. It is made
once per node, never leaves it, and says nothing but that it is ours.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from architect.core import files

LIFETIME: Final = datetime.timedelta(days=3650)
RENEW_BEFORE: Final = datetime.timedelta(days=365)


def ensure(path: Path, *, now: datetime.datetime | None = None) -> bool:
    """Make key and certificate at *path* (0600) unless a valid pair is there.

    Returns whether one was made. Raises OSError.
    """
    at = now or datetime.datetime.now(datetime.UTC)
    if _is_valid(path, at):
        return False
    files.make_private(path.parent)
    files.write_atomic(path, _make(at))
    return True


def _is_valid(path: Path, at: datetime.datetime) -> bool:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return False
    try:
        certificate = x509.load_pem_x509_certificate(raw)
        key = serialization.load_pem_private_key(raw, password=None)
    except (ValueError, TypeError):
        return False
    if certificate.not_valid_after_utc - at < RENEW_BEFORE:
        return False
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(encoding, form) == certificate.public_key().public_bytes(
        encoding, form
    )


def _make(at: datetime.datetime) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "architect-stand-in")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A day back, for clocks that differ.
        .not_valid_before(at - datetime.timedelta(days=1))
        .not_valid_after(at + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + certificate.public_bytes(serialization.Encoding.PEM)
