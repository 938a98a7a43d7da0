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
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from architect.core.errors import FormatError
from architect.pki import certificates
from architect.pki.certificates import (
    CLOCK_SKEW,
    PrivateKey,
    belong_together,
    is_due,
    is_signed_by,
    key_to_pem,
    read_certificates,
    read_key,
    to_pem,
)

CA_LIFE: Final = timedelta(days=365)
SERVING_LIFE: Final = timedelta(days=90)

SETTLE: Final = timedelta(minutes=10)
"""Age at which a new authority is known to every API server: each sees a changed bundle through
a watch, and each replica of ours writes it again in the meantime if it was lost."""


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
        ca_key = read_key(material.ca_key)
    except FormatError:
        return Action.CREATE
    signer = authorities[0]
    if signer.not_valid_after_utc <= now or not belong_together(signer, ca_key):
        return Action.CREATE
    usable = _is_usable(material, authorities, now=now, dns_names=dns_names)
    if not usable:
        return Action.RENEW_SERVING
    if is_due(signer, now):
        return Action.RENEW_CA
    serving = read_certificates(material.certificate)[0]
    settled = now - signer.not_valid_before_utc >= SETTLE + CLOCK_SKEW
    if is_due(serving, now) and settled:
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
            ca_bundle=to_pem(authority), ca_key=key_to_pem(ca_key), certificate=certificate, key=key
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
            ca_bundle=b"".join(map(to_pem, [authority, *authorities])),
            ca_key=key_to_pem(ca_key),
        )
    certificate, key = _make_serving(
        authorities[0], read_key(material.ca_key), now=now, dns_names=dns_names
    )
    return replace(
        material, ca_bundle=b"".join(map(to_pem, authorities)), certificate=certificate, key=key
    )


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
        key = read_key(material.key)
        alternatives = serving.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (FormatError, x509.ExtensionNotFound, ValueError):
        return False
    present = alternatives.value.get_values_for_type(x509.DNSName)
    return (
        belong_together(serving, key)
        and set(dns_names) <= set(present)
        and serving.not_valid_before_utc <= now + CLOCK_SKEW
        and now < serving.not_valid_after_utc
        and any(
            is_signed_by(serving, authority) and now < authority.not_valid_after_utc
            for authority in authorities
        )
    )


def _make_authority(now: datetime) -> tuple[x509.Certificate, PrivateKey]:
    return certificates.make_authority("architect-webhook", now=now, life=CA_LIFE)


def _make_serving(
    authority: x509.Certificate, ca_key: PrivateKey, *, now: datetime, dns_names: Sequence[str]
) -> tuple[bytes, bytes]:
    key = certificates.make_key()
    serving = certificates.issue(
        authority,
        ca_key,
        key.public_key(),
        common_name="architect-webhook",
        dns_names=dns_names,
        usages=[ExtendedKeyUsageOID.SERVER_AUTH],
        now=now,
        life=SERVING_LIFE,
    )
    return to_pem(serving), key_to_pem(key)
