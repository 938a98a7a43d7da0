"""The webhook's own certificate authority and serving certificate: what to renew, and when.

Pure but for the random numbers of new keys: time and state come in, new state goes out.
:func:`decide` looks, :func:`carry_out` makes; :mod:`architect.webhook.rotation` stores the result.

A renewed authority stands first in the bundle and the old one stays in it until it expires. Its
first serving certificate is made only after the bundle has had time to reach the API server, so
that no replica ever serves what the API server does not trust yet.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from architect.core.errors import FormatError

CA_LIFE: Final = timedelta(days=365)
SERVING_LIFE: Final = timedelta(days=90)

RENEW_AT: Final = 2 / 3
"""Part of its life after which a certificate is renewed: a third is left to notice a failure."""

SETTLE: Final = timedelta(minutes=10)
"""Age at which a new authority is known to every API server: each sees a changed bundle through
a watch, and each replica of ours writes it again in the meantime if it was lost."""

CLOCK_SKEW: Final = timedelta(minutes=5)
"""New certificates are valid from this long ago, for machines whose clocks are behind."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """Everything that the Secret holds, as PEM."""

    ca_bundle: bytes
    """Authorities to trust, the one that signs first."""
    ca_key: bytes
    certificate: bytes
    key: bytes


class Action(enum.Enum):
    """What is to be done about a :class:`Material`."""

    KEEP = "keep"
    CREATE = "create"
    """Nothing usable is there: a new authority and a new serving certificate."""
    RENEW_CA = "renew-ca"
    RENEW_SERVING = "renew-serving"


def decide(material: Material | None, *, now: datetime, dns_names: Sequence[str]) -> Action:
    """Return the next thing to do; doing it and asking again comes to KEEP."""
    if material is None:
        return Action.CREATE
    try:
        authorities = read_certificates(material.ca_bundle)
        ca_key = _read_key(material.ca_key)
    except FormatError:
        return Action.CREATE
    signer = authorities[0]
    if signer.not_valid_after_utc <= now or not _same_key(signer, ca_key):
        return Action.CREATE
    usable = _is_usable(material, authorities, now=now, dns_names=dns_names)
    if not usable:
        return Action.RENEW_SERVING
    if _is_due(signer, now):
        return Action.RENEW_CA
    serving = read_certificates(material.certificate)[0]
    settled = now - signer.not_valid_before_utc >= SETTLE + CLOCK_SKEW
    if _is_due(serving, now) and settled:
        return Action.RENEW_SERVING
    return Action.KEEP


def carry_out(
    action: Action, material: Material | None, *, now: datetime, dns_names: Sequence[str]
) -> Material:
    """Return *material* after *action*. Authorities that have expired leave the bundle."""
    if action is Action.KEEP and material is not None:
        return material
    if action is Action.CREATE or material is None:
        authority, ca_key = _make_authority(now)
        certificate, key = _make_serving(authority, ca_key, now=now, dns_names=dns_names)
        return Material(
            ca_bundle=_pem(authority), ca_key=_key_pem(ca_key), certificate=certificate, key=key
        )
    authorities = [
        authority
        for authority in read_certificates(material.ca_bundle)
        if authority.not_valid_after_utc > now
    ]
    if action is Action.RENEW_CA:
        authority, ca_key = _make_authority(now)
        return replace(
            material,
            ca_bundle=b"".join(map(_pem, [authority, *authorities])),
            ca_key=_key_pem(ca_key),
        )
    certificate, key = _make_serving(
        authorities[0], _read_key(material.ca_key), now=now, dns_names=dns_names
    )
    return replace(
        material, ca_bundle=b"".join(map(_pem, authorities)), certificate=certificate, key=key
    )


def read_certificates(pem: bytes) -> list[x509.Certificate]:
    """Return the certificates in *pem*, at least one. Raises FormatError."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise FormatError(f"not a PEM certificate: {error}") from error


def _is_usable(
    material: Material,
    authorities: Sequence[x509.Certificate],
    *,
    now: datetime,
    dns_names: Sequence[str],
) -> bool:
    """Tell whether the serving certificate works: key, names, time and a trusted signature."""
    try:
        serving = read_certificates(material.certificate)[0]
        key = _read_key(material.key)
        alternatives = serving.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (FormatError, x509.ExtensionNotFound, ValueError):
        return False
    present = alternatives.value.get_values_for_type(x509.DNSName)
    return (
        _same_key(serving, key)
        and set(dns_names) <= set(present)
        and serving.not_valid_before_utc <= now + CLOCK_SKEW
        and now < serving.not_valid_after_utc
        and any(_signed(serving, authority, now) for authority in authorities)
    )


def _signed(serving: x509.Certificate, authority: x509.Certificate, now: datetime) -> bool:
    try:
        serving.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return now < authority.not_valid_after_utc


def _is_due(certificate: x509.Certificate, now: datetime) -> bool:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= start + (end - start) * RENEW_AT


def _make_authority(now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # A name of its own for each authority, so that a chain is never built through a namesake.
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"architect-webhook {serial:x}"[:60])]
    )
    builder = (
        _builder(name, name, key.public_key(), serial, start=now, end=now + CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256()), key


def _make_serving(
    authority: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    *,
    now: datetime,
    dns_names: Sequence[str],
) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "architect-webhook")])
    end = min(now + SERVING_LIFE, authority.not_valid_after_utc)
    builder = (
        _builder(
            name,
            authority.subject,
            key.public_key(),
            x509.random_serial_number(),
            start=now,
            end=end,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(n) for n in dns_names]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
    )
    return _pem(builder.sign(ca_key, hashes.SHA256())), _key_pem(key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
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


def _same_key(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    return certificate.public_key() == key.public_key()


def _read_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        # The library's text may quote the input: it stays out of logs.
        raise FormatError("not a PEM private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FormatError("not an elliptic curve key")
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
