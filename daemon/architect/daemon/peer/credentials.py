"""A daemon's key, certificate, and whom it trusts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from architect.core.errors import FormatError
from architect.pki import certificates, node_identity
from architect.pki.certificates import CLOCK_SKEW, PrivateKey


@dataclass(frozen=True, kw_only=True, repr=False)
class Credentials:
    """What one handshake needs, as PEM. The key is in this process's memory and nowhere else."""

    key: bytes
    certificate: bytes
    authorities: bytes
    """Of the other side's certificate."""
    due_at: datetime
    """When to renew it."""
    ends_at: datetime


def from_chain(key: PrivateKey, chain: bytes, *, node: str, now: datetime) -> Credentials:
    """Return the credentials that a signed request gave.

    *chain* is our certificate and, after it, the authorities to trust. Raises FormatError if it is
    not ours, not valid now, or not signed by one of those authorities: others would refuse it.
    """
    leaf, *authorities = certificates.read_certificates(chain)
    if not certificates.belong_together(leaf, key):
        raise FormatError("the certificate is for another key than ours")
    if (found := node_identity.node_of(leaf)) != node:
        raise FormatError(f"the certificate is for node {found!r} instead of {node!r}")
    if not leaf.not_valid_before_utc - CLOCK_SKEW <= now < leaf.not_valid_after_utc:
        raise FormatError(
            f"the certificate is valid from {leaf.not_valid_before_utc} to "
            f"{leaf.not_valid_after_utc}, and it is {now}",
            hint="do the clocks of this node and of the operator's agree?",
        )
    if not any(certificates.is_signed_by(leaf, authority) for authority in authorities):
        raise FormatError("the certificate's authority does not come with it")
    return Credentials(
        key=certificates.key_to_pem(key),
        certificate=certificates.to_pem(leaf),
        authorities=b"".join(map(certificates.to_pem, authorities)),
        due_at=certificates.due_at(leaf),
        ends_at=leaf.not_valid_after_utc,
    )
