"""Certificates of daemons, from the operator's own code."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from architect.daemon.peer import credentials
from architect.daemon.peer.credentials import Credentials
from architect.operator import authority
from architect.operator.authority import Action, Authorities
from architect.pki import certificates


class Issuer:
    """One cluster's authority."""

    def __init__(self, *, now: datetime | None = None) -> None:
        at = now or datetime.now(UTC)
        self.authorities: Authorities = authority.carry_out(Action.CREATE, None, now=at)

    def credentials(
        self, node: str, *, now: datetime | None = None, life: timedelta = authority.LIFE
    ) -> Credentials:
        """Return what *node*'s daemon was given at *now*, for *life*."""
        at = now or datetime.now(UTC)
        key = certificates.make_key()
        chain = authority.issue(self.authorities, key.public_key(), node=node, now=at, life=life)
        return credentials.from_chain(key, chain, node=node, now=at)

    def expired(self, node: str) -> Credentials:
        """Return credentials that ended an hour ago."""
        now = datetime.now(UTC) - timedelta(hours=2)
        return self.credentials(node, now=now, life=timedelta(hours=1))
