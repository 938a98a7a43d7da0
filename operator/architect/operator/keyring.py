"""The cluster's keys for checkpoints in the object store: which one is used, and until when.

Pure but for the random numbers of new keys. :func:`decide` looks, :func:`carry_out` makes;
:mod:`architect.operator.keyring_store` keeps the result in a Secret, in the forms of
:mod:`architect.operator.keyring_form`.

The nodes encrypt for the current key. A former one encrypts nothing new and opens what was
encrypted for it. It is kept for ever: nobody knows what lies in the object store or its backups.
So are the certificates of the daemons' authorities: what a node sealed is read, and believed, long
after its authority has expired or was lost.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509

from architect.checkpoint import keys
from architect.checkpoint.keys import PrivateKey, PublicKey
from architect.operator.kms.seal import PLAIN, Keeper

ROTATE_AFTER: Final = timedelta(days=90)
"""As the daemons' authority. Who has stolen the Secret reads what is stored until the next
rotation, and nothing that is stored later."""

MAX_AUTHORITIES: Final = 256
"""Forty years of them, six each year. One takes 600 bytes, and an object has room for 1 MiB."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Key:
    """One of them."""

    private: PrivateKey
    created: datetime

    @property
    def public(self) -> PublicKey:
        """For whom the nodes encrypt."""
        return self.private.public_key()

    @property
    def id(self) -> str:
        """Its name, as Checkpoints have it."""
        return keys.key_id(self.public)


@dataclass(frozen=True, kw_only=True, repr=False)
class Keyring:
    """Everything that the Secret holds."""

    current: Key
    former: tuple[Key, ...] = ()
    """The latest first."""
    authorities: tuple[x509.Certificate, ...] = ()
    """Under which nodes may have sealed checkpoints, whenever that was; the latest first."""
    keeper: Keeper = PLAIN
    """Who has sealed the private keys in the Secret that this was read from."""

    def find(self, key_id: str) -> PrivateKey | None:
        """Return the key of that name."""
        return next((k.private for k in (self.current, *self.former) if k.id == key_id), None)


class Action(enum.Enum):
    """What is to be done about a :class:`Keyring`."""

    KEEP = "keep"
    CREATE = "create"
    """There is none."""
    ROTATE = "rotate"
    """Make a new current one."""
    SEAL = "seal"
    """The private keys lie there plain, and are to be sealed. Backups have them plain for ever, so
    a new current one is made, too: it opens what is stored from now on, and was never plain."""
    RESEAL = "seal by another key"
    UNSEAL = "unseal"
    """They are to be plain again."""


def decide(keyring: Keyring | None, *, now: datetime, keeper: Keeper = PLAIN) -> Action:
    """Return the next thing to do; doing it and asking again comes to KEEP.

    *keeper* is who is to seal what is written.
    """
    if keyring is None:
        return Action.CREATE
    if keyring.keeper != keeper:
        if keeper == PLAIN:
            return Action.UNSEAL
        return Action.SEAL if keyring.keeper == PLAIN else Action.RESEAL
    if now - keyring.current.created >= ROTATE_AFTER:
        return Action.ROTATE
    return Action.KEEP


def carry_out(action: Action, keyring: Keyring | None, *, now: datetime) -> Keyring:
    """Return *keyring* after *action*; who seals it is the business of who writes it."""
    if keyring is None:
        return Keyring(current=_make(now))
    if action in (Action.ROTATE, Action.SEAL):
        return replace(keyring, current=_make(now), former=(keyring.current, *keyring.former))
    return keyring


def learn(keyring: Keyring, authorities: Iterable[x509.Certificate]) -> Keyring:
    """Return *keyring* with *authorities* among its own: itself if it has them all."""
    new = tuple(c for c in authorities if c not in keyring.authorities)
    if not new:
        return keyring
    return replace(keyring, authorities=(*new, *keyring.authorities)[:MAX_AUTHORITIES])


def _make(now: datetime) -> Key:
    return Key(private=keys.make_key(), created=now)
