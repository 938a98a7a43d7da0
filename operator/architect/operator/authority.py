"""The certificate authority of the daemons: what it consists of, and what to renew when.

Pure but for the random numbers of new keys. :func:`decide` looks, :func:`carry_out` makes;
:mod:`architect.operator.authority_store` keeps the result in a Secret.

A daemon learns whom to trust from the chain that comes with its own certificate, so a new authority
is known to all once the oldest valid certificate is younger than it. Until then it is trusted and
does not sign: nobody ever meets a certificate whose authority he does not know.

What has expired is forgotten here. Whoever reads old checkpoints asks
:mod:`architect.operator.keyring`, which outlives a Secret of this that is lost.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography import x509

from architect.core.errors import FormatError
from architect.pki import certificates, node_identity
from architect.pki.certificates import PrivateKey, PublicKey

VERSION: Final = 1
"""Of what the Secret holds."""

NAME: Final = "architect-daemon-ca"

AUTHORITY_LIFE: Final = timedelta(days=90)

LIFE: Final = timedelta(hours=24)
"""Of a daemon's certificate. Nothing is ever revoked: what leaked is of no use a day later. A third
of it is how long the operator may be away before a daemon cannot be talked to."""

SETTLE: Final = LIFE + 2 * certificates.CLOCK_SKEW
"""Age at which every valid certificate came with the new authority in its chain."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Authority:
    """One that can sign."""

    certificate: x509.Certificate
    key: PrivateKey


@dataclass(frozen=True, kw_only=True, repr=False)
class Authorities:
    """Everything that the Secret holds."""

    current: Authority
    """It signs."""
    next: Authority | None = None
    """It is trusted already and signs once all know it."""
    retired: tuple[x509.Certificate, ...] = ()
    """They are trusted until they expire."""

    @property
    def trusted(self) -> tuple[x509.Certificate, ...]:
        """What a daemon has to trust."""
        coming = () if self.next is None else (self.next.certificate,)
        return (self.current.certificate, *coming, *self.retired)


class Action(enum.Enum):
    """What is to be done about :class:`Authorities`."""

    KEEP = "keep"
    CREATE = "create"
    """There is none that works."""
    PREPARE = "prepare"
    """Make the next one."""
    PROMOTE = "promote"
    """Let the next one sign."""
    PRUNE = "prune"
    """Forget retired ones that have expired."""


def decide(authorities: Authorities | None, *, now: datetime) -> Action:
    """Return the next thing to do; doing it and asking again comes to KEEP."""
    if authorities is None or authorities.current.certificate.not_valid_after_utc <= now:
        return Action.CREATE
    coming = authorities.next
    if coming is None and certificates.is_due(authorities.current.certificate, now):
        return Action.PREPARE
    if coming is not None and now - coming.certificate.not_valid_before_utc >= SETTLE:
        return Action.PROMOTE
    if any(c.not_valid_after_utc <= now for c in authorities.retired):
        return Action.PRUNE
    return Action.KEEP


def carry_out(action: Action, authorities: Authorities | None, *, now: datetime) -> Authorities:
    """Return *authorities* after *action*."""
    if authorities is None or action is Action.CREATE:
        return Authorities(current=_make(now))
    if action is Action.PREPARE:
        return replace(authorities, next=_make(now))
    if action is Action.PROMOTE and authorities.next is not None:
        return replace(
            authorities,
            current=authorities.next,
            next=None,
            retired=(authorities.current.certificate, *authorities.retired),
        )
    if action is Action.PRUNE:
        kept = tuple(c for c in authorities.retired if c.not_valid_after_utc > now)
        return replace(authorities, retired=kept)
    return authorities


def issue(
    authorities: Authorities,
    public_key: PublicKey,
    *,
    node: str,
    now: datetime,
    life: timedelta = LIFE,
) -> bytes:
    """Return the certificate of *node*'s daemon and, after it, the authorities to trust, as PEM."""
    leaf = certificates.issue(
        authorities.current.certificate,
        authorities.current.key,
        public_key,
        common_name=node_identity.COMMON_NAME,
        dns_names=[node_identity.dns_name_of(node)],
        usages=node_identity.USAGES,
        now=now,
        life=life,
    )
    return b"".join(map(certificates.to_pem, (leaf, *authorities.trusted)))


def to_json(authorities: Authorities) -> bytes:
    """Return what the Secret is to hold: keys included."""
    value: dict[str, Any] = {
        "version": VERSION,
        "current": _authority_json(authorities.current),
        "next": None if authorities.next is None else _authority_json(authorities.next),
        "retired": [certificates.to_pem(c).decode("ascii") for c in authorities.retired],
    }
    return json.dumps(value, indent=1).encode()


def from_json(raw: bytes) -> Authorities:
    """Read what :func:`to_json` wrote.

    Raises FormatError, whose text quotes nothing, for it would be a key.
    """
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError("the authority's Secret is not JSON") from error
    if not isinstance(value, dict) or value.get("version") != VERSION:
        raise FormatError(f"the authority's Secret is not of version {VERSION}")
    try:
        coming = value["next"]
        return Authorities(
            current=_read_authority(value["current"]),
            next=None if coming is None else _read_authority(coming),
            retired=tuple(_read_certificate(text) for text in value["retired"]),
        )
    except (KeyError, TypeError, AttributeError, UnicodeError) as error:
        raise FormatError("the authority's Secret lacks a part") from error


def _make(now: datetime) -> Authority:
    certificate, key = certificates.make_authority(NAME, now=now, life=AUTHORITY_LIFE)
    return Authority(certificate=certificate, key=key)


def _authority_json(authority: Authority) -> dict[str, str]:
    return {
        "certificate": certificates.to_pem(authority.certificate).decode("ascii"),
        "key": certificates.key_to_pem(authority.key).decode("ascii"),
    }


def _read_authority(value: Mapping[str, Any]) -> Authority:
    certificate = _read_certificate(value["certificate"])
    key = certificates.read_key(value["key"].encode("ascii"))
    if not certificates.belong_together(certificate, key):
        raise FormatError("the authority's key is not that of its certificate")
    return Authority(certificate=certificate, key=key)


def _read_certificate(text: str) -> x509.Certificate:
    return certificates.read_certificates(text.encode("ascii"))[0]
