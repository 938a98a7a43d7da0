"""The cluster's keys for checkpoints in the object store: which one is used, and until when.

Pure but for the random numbers of new keys. :func:`decide` looks, :func:`carry_out` makes;
:mod:`architect.operator.keyring_store` keeps the result in a Secret.

The nodes encrypt for the current key. A former one encrypts nothing new and opens what was
encrypted for it. It is kept for ever: nobody knows what lies in the object store or its backups.
So are the certificates of the daemons' authorities: what a node sealed is read, and believed, long
after its authority has expired or was lost.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography import x509

from architect.checkpoint import keys
from architect.checkpoint.keys import PrivateKey, PublicKey
from architect.core.errors import FormatError
from architect.pki import certificates

VERSION: Final = 1
"""Of what the Secret holds."""

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


def decide(keyring: Keyring | None, *, now: datetime) -> Action:
    """Return the next thing to do; doing it and asking again comes to KEEP."""
    if keyring is None:
        return Action.CREATE
    if now - keyring.current.created >= ROTATE_AFTER:
        return Action.ROTATE
    return Action.KEEP


def carry_out(action: Action, keyring: Keyring | None, *, now: datetime) -> Keyring:
    """Return *keyring* after *action*."""
    if keyring is None:
        return Keyring(current=_make(now))
    if action is Action.ROTATE:
        return replace(keyring, current=_make(now), former=(keyring.current, *keyring.former))
    return keyring


def learn(keyring: Keyring, authorities: Iterable[x509.Certificate]) -> Keyring:
    """Return *keyring* with *authorities* among its own: itself if it has them all."""
    new = tuple(c for c in authorities if c not in keyring.authorities)
    if not new:
        return keyring
    return replace(keyring, authorities=(*new, *keyring.authorities)[:MAX_AUTHORITIES])


def to_json(keyring: Keyring) -> bytes:
    """Return what the Secret is to hold: private keys included."""
    value: dict[str, Any] = {
        "version": VERSION,
        "current": _key_json(keyring.current),
        "former": [_key_json(key) for key in keyring.former],
        "authorities": [certificates.to_pem(c).decode("ascii") for c in keyring.authorities],
    }
    return json.dumps(value, indent=1).encode()


def from_json(raw: bytes) -> Keyring:
    """Read what :func:`to_json` wrote.

    Raises FormatError, whose text quotes nothing, for it would be a key.
    """
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError("the keys' Secret is not JSON") from error
    if not isinstance(value, dict) or value.get("version") != VERSION:
        raise FormatError(f"the keys' Secret is not of version {VERSION}")
    try:
        return Keyring(
            current=_read_key(value["current"]),
            former=tuple(_read_key(item) for item in value["former"]),
            authorities=tuple(map(_read_certificate, value["authorities"])),
        )
    except (KeyError, TypeError, AttributeError, UnicodeError) as error:
        raise FormatError("the keys' Secret lacks a part") from error


def _make(now: datetime) -> Key:
    return Key(private=keys.make_key(), created=now)


def _key_json(key: Key) -> dict[str, str]:
    return {
        # For people: with it, who looks for a lost key knows whether he has found it.
        "id": key.id,
        "private": keys.private_to_text(key.private),
        "created": key.created.isoformat(),
    }


def _read_key(value: Mapping[str, Any]) -> Key:
    try:
        created = datetime.fromisoformat(value["created"])
    except ValueError as error:
        raise FormatError("the keys' Secret has a key of no time") from error
    if created.tzinfo is None:
        raise FormatError("the keys' Secret has a key of a time without its zone")
    key = Key(private=keys.private_from_text(value["private"]), created=created)
    if key.id != value["id"]:
        raise FormatError("the keys' Secret has a key under another one's id")
    return key


def _read_certificate(text: str) -> x509.Certificate:
    return certificates.read_certificates(text.encode("ascii"))[0]
