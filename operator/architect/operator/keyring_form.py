"""How a :class:`Keyring` stands in its Secret: plain (version 1), or sealed (version 2).

Sealed are the private keys alone, each by itself. What else is there are ids, times and
certificates, which everybody may know, and who looks for a lost key needs; and a change of the
seal, or a defect in it, cannot cost them. Texts of errors quote nothing: it would be a key.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from architect.checkpoint import keys, strict
from architect.checkpoint.keys import PrivateKey
from architect.core.errors import FormatError
from architect.operator.keyring import Key, Keyring
from architect.operator.kms.seal import PLAIN, Keeper, Seal
from architect.pki import certificates

VERSION: Final = 1
"""Plain."""

SEALED_VERSION: Final = 2

PURPOSE: Final = "architect.dev/checkpoint-keys/private/1"

NONCE_BYTES: Final = 12
"""Random: a data key seals the few keys of one Secret, once."""

MAX_CONTEXT: Final = 8
"""Names in a seal's context; there are four."""

_TAG_BYTES: Final = 16
_SEALED_BYTES: Final = NONCE_BYTES + keys.KEY_BYTES + _TAG_BYTES
_MAX_WRAPPED_BYTES: Final = 8192

_Hide: TypeAlias = Callable[[Key], dict[str, str]]
_Show: TypeAlias = Callable[[Mapping[str, Any]], PrivateKey]


def to_json(keyring: Keyring) -> bytes:
    """Return the plain form: private keys included."""
    return _write({"version": VERSION}, keyring, _plain)


def to_sealed_json(keyring: Keyring, seal: Seal, data_key: bytes) -> bytes:
    """Return the form in which *data_key*, and whoever opens *seal*, has the private keys."""
    head = {
        "version": SEALED_VERSION,
        "seal": {
            "provider": seal.keeper.provider,
            "key": seal.keeper.key,
            "usedKey": seal.used_key,
            "context": dict(seal.context),
            "dataKey": base64.b64encode(seal.wrapped).decode("ascii"),
        },
    }
    cipher = AESGCM(data_key)
    return _write(head, keyring, lambda key: _sealed(key, cipher))


def seal_of(raw: bytes) -> Seal | None:
    """Return what is to be opened before *raw* is read; None: it is plain. Raises FormatError."""
    value = _parse(raw)
    if value["version"] == VERSION:
        return None
    try:
        return _read_seal(value["seal"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FormatError("the keys' Secret has a seal that is damaged") from error


def from_json(raw: bytes, data_key: bytes | None = None) -> Keyring:
    """Read a form: the sealed one with the data key of its seal. Raises FormatError."""
    value = _parse(raw)
    if data_key is None:
        if value["version"] != VERSION:
            raise FormatError("the keys' Secret is sealed")
        return _read(value, _shown, PLAIN)
    seal = seal_of(raw)
    if seal is None:
        raise FormatError("the keys' Secret is not sealed")
    cipher = AESGCM(data_key)
    return _read(value, lambda item: _opened(item, cipher), seal.keeper)


def _write(head: dict[str, Any], keyring: Keyring, hide: _Hide) -> bytes:
    value = head | {
        "current": _key_json(keyring.current, hide),
        "former": [_key_json(key, hide) for key in keyring.former],
        "authorities": [certificates.to_pem(c).decode("ascii") for c in keyring.authorities],
    }
    return json.dumps(value, indent=1).encode()


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError("the keys' Secret is not JSON") from error
    version = value.get("version") if isinstance(value, dict) else None
    if isinstance(version, bool) or version not in (VERSION, SEALED_VERSION):
        raise FormatError(f"the keys' Secret is not of version {VERSION} or {SEALED_VERSION}")
    return dict(value)


def _read(value: Mapping[str, Any], show: _Show, keeper: Keeper) -> Keyring:
    try:
        return Keyring(
            current=_read_key(value["current"], show),
            former=tuple(_read_key(item, show) for item in value["former"]),
            authorities=tuple(map(_read_certificate, value["authorities"])),
            keeper=keeper,
        )
    except (KeyError, TypeError, AttributeError, UnicodeError) as error:
        raise FormatError("the keys' Secret lacks a part") from error


def _read_seal(value: Mapping[str, Any]) -> Seal:
    context = {_text(name): _text(item) for name, item in value["context"].items()}
    if len(context) > MAX_CONTEXT:
        raise FormatError(f"the keys' Secret has a seal of more than {MAX_CONTEXT} circumstances")
    return Seal(
        keeper=Keeper(provider=_text(value["provider"]), key=_text(value["key"])),
        used_key=_text(value["usedKey"]),
        context=context,
        wrapped=strict.base64_of(1, _MAX_WRAPPED_BYTES)(value["dataKey"], "the data key"),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 2048 or not value.isprintable():
        raise TypeError
    return value


def _key_json(key: Key, hide: _Hide) -> dict[str, str]:
    # The id for people: with it, who looks for a lost key knows whether he has found it.
    return {"id": key.id, **hide(key), "created": key.created.isoformat()}


def _plain(key: Key) -> dict[str, str]:
    return {"private": keys.private_to_text(key.private)}


def _sealed(key: Key, cipher: AESGCM) -> dict[str, str]:
    nonce = secrets.token_bytes(NONCE_BYTES)
    text = cipher.encrypt(nonce, keys.private_to_bytes(key.private), _associated(key.id))
    return {"sealed": strict.to_base64(nonce + text)}


def _shown(item: Mapping[str, Any]) -> PrivateKey:
    return keys.private_from_text(item["private"])


def _opened(item: Mapping[str, Any], cipher: AESGCM) -> PrivateKey:
    raw = strict.base64_of(_SEALED_BYTES)(item["sealed"], "the sealed key")
    try:
        plain = cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], _associated(item["id"]))
    except InvalidTag as error:
        raise FormatError("the keys' Secret has a sealed key that is damaged") from error
    return keys.private_from_bytes(plain)


def _associated(key_id: str) -> bytes:
    return strict.canonical({"purpose": PURPOSE, "id": key_id})


def _read_key(value: Mapping[str, Any], show: _Show) -> Key:
    try:
        created = datetime.fromisoformat(value["created"])
    except ValueError as error:
        raise FormatError("the keys' Secret has a key of no time") from error
    if created.tzinfo is None:
        raise FormatError("the keys' Secret has a key of a time without its zone")
    key = Key(private=show(value), created=created)
    if key.id != value["id"]:
        raise FormatError("the keys' Secret has a key under another one's id")
    return key


def _read_certificate(text: str) -> x509.Certificate:
    return certificates.read_certificates(text.encode("ascii"))[0]
