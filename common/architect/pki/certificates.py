"""How authorities and certificates of ours are built, and PEM.

Pure but for the random numbers of keys and serials: times come in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier

from architect.core.errors import FormatError

RENEW_AT: Final = 2 / 3
"""Part of its life after which a certificate is renewed: a third is left to notice a failure."""

CLOCK_SKEW: Final = timedelta(minutes=5)
"""New certificates are valid from this long ago, for machines whose clocks are behind."""

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey


def make_key() -> PrivateKey:
    """Return a new key, P-256 as all of ours."""
    return ec.generate_private_key(ec.SECP256R1())


def make_authority(
    name: str, *, now: datetime, life: timedelta
) -> tuple[x509.Certificate, PrivateKey]:
    """Return a self-signed authority, which signs certificates but no other authority.

    A serial number is added to *name*, so that a chain is never built through a namesake.
    """
    key = make_key()
    serial = x509.random_serial_number()
    subject = _common_name(f"{name} {serial:x}"[:60])
    builder = (
        _builder(subject, subject, key.public_key(), serial, start=now, end=now + life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256()), key


def issue(
    authority: x509.Certificate,
    authority_key: PrivateKey,
    public_key: PublicKey,
    *,
    common_name: str,
    dns_names: Sequence[str],
    usages: Iterable[ObjectIdentifier],
    now: datetime,
    life: timedelta,
) -> x509.Certificate:
    """Return a certificate for *public_key* that ends no later than *authority*."""
    end = min(now + life, authority.not_valid_after_utc)
    return (
        _builder(
            _common_name(common_name),
            authority.subject,
            public_key,
            x509.random_serial_number(),
            start=now,
            end=end,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(n) for n in dns_names]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )


def is_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether *certificate* is to be renewed."""
    return now >= due_at(certificate)


def due_at(certificate: x509.Certificate) -> datetime:
    """Return when *certificate* is to be renewed."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return start + (end - start) * RENEW_AT


def is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether *authority*'s key signed *certificate* under its name; no times are looked at.

    A certificate that was changed in any bit is not.
    """
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    # The signature is a BIT STRING and comes last. How many bits of it are unused is not signed,
    # and stands in the byte before it: of a signature that ends in zeros it could be changed.
    der = certificate.public_bytes(serialization.Encoding.DER)
    return der[-len(certificate.signature) - 1] == 0


def belong_together(certificate: x509.Certificate, key: PrivateKey) -> bool:
    """Whether *certificate* is for *key*."""
    return certificate.public_key() == key.public_key()


def read_certificates(pem: bytes) -> list[x509.Certificate]:
    """Return the certificates in *pem*, at least one. Raises FormatError."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise FormatError(f"not a PEM certificate: {error}") from error


def read_key(pem: bytes) -> PrivateKey:
    """Return the private key in *pem*. Raises FormatError."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The library's text may quote the input: it stays out of logs.
        raise FormatError("not a PEM private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FormatError("not an elliptic curve key")
    return key


def to_pem(certificate: x509.Certificate) -> bytes:
    """Return *certificate* as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_to_pem(key: PrivateKey) -> bytes:
    """Return *key* as PEM, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: PublicKey,
    serial: int,
    *,
    start: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before((start - CLOCK_SKEW).astimezone(UTC))
        .not_valid_after(end.astimezone(UTC))
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
