"""The keys of sealed checkpoints: one for the data, and how it gets to whom may read it.

::

    data key       random, of one upload; shards are encrypted with it
    wrapped key    the data key, encrypted for the cluster's public key by the node that captured
    sealed key     the data key, encrypted by the operator for one claim's public key

The operator alone holds the cluster's private key. A node encrypts without asking anybody, so that
neither an operator nor an API server that is away keeps a checkpoint from the object store; and it
gets back the data keys of the checkpoints that it claimed, no others.

Encryption is HPKE (RFC 9180, base mode): X25519, HKDF-SHA256, AES-256-GCM. Its ``info`` holds the
purpose, whose checkpoint it is and, at a release, who claims it. What was encrypted for one
purpose, object or claimant does not open for another, so that a copied key is of no use. It does
not say who encrypted: the envelope's signature does.

Pure but for random numbers. No error quotes a key.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import x25519

from architect.checkpoint import strict
from architect.core.errors import FormatError

DATA_KEY_BYTES: Final = 32
"""AES-256."""

KEY_BYTES: Final = 32
"""Of either half of an X25519 key."""

SEALED_BYTES: Final = KEY_BYTES + DATA_KEY_BYTES + 16
"""Of an encrypted data key: the sender's public key made for it, the text, its tag."""

KEY_ID_CHARS: Final = 16
"""64 bits tell the few keys of one cluster apart; they protect nothing."""

MARK_CHARS: Final = 12
"""48 bits of a public key's hash: they tell the few claims of one checkpoint apart."""

_FIELD: Final = 2**255 - 19
"""A public key is a number below it. A larger one is another spelling of a smaller one."""

_WRAP: Final = "architect.dev/checkpoint-key/wrap/1"
_RELEASE: Final = "architect.dev/checkpoint-key/release/1"

_SUITE: Final = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)

PrivateKey = x25519.X25519PrivateKey
PublicKey = x25519.X25519PublicKey


@dataclass(frozen=True, kw_only=True)
class Binding:
    """Of which checkpoint a data key is."""

    namespace: str
    pod_uid: str
    """Of the pod that was captured."""
    owner_uid: str
    """Of whoever replaces it; empty: nobody."""
    checkpoint_id: str


@dataclass(frozen=True, kw_only=True)
class Claimant:
    """Who restores it."""

    pod_uid: str
    """Of the pod that came."""
    node: str


def new_data_key() -> bytes:
    """Return the key of one upload."""
    return secrets.token_bytes(DATA_KEY_BYTES)


def make_key() -> PrivateKey:
    """Return a new key: the cluster's, or one claim's."""
    return PrivateKey.generate()


def key_id(public: PublicKey) -> str:
    """Return the name of a key."""
    return hashlib.sha256(public_to_bytes(public)).hexdigest()[:KEY_ID_CHARS]


def wrap(data_key: bytes, public: PublicKey, binding: Binding) -> bytes:
    """Return *data_key* so that the cluster's private key alone opens it. Raises FormatError."""
    return _encrypt(data_key, public, _info(_WRAP, binding))


def unwrap(wrapped: bytes, private: PrivateKey, binding: Binding) -> bytes:
    """Return the data key that :func:`wrap` was given with *binding*. Raises FormatError."""
    return _decrypt(
        wrapped,
        private,
        _info(_WRAP, binding),
        "the wrapped key is damaged, or was encrypted for another key, or for another checkpoint",
    )


def release(data_key: bytes, public: PublicKey, binding: Binding, *, claimant: Claimant) -> bytes:
    """Return *data_key* so that *claimant*'s key alone opens it. Raises FormatError."""
    return _encrypt(data_key, public, _info(_RELEASE, binding, claimant))


def accept(sealed: bytes, private: PrivateKey, binding: Binding, *, claimant: Claimant) -> bytes:
    """Return the data key that :func:`release` was given with the same. Raises FormatError."""
    return _decrypt(
        sealed,
        private,
        _info(_RELEASE, binding, claimant),
        "the released key is damaged, or was encrypted for another key, or for another checkpoint "
        "or claimant",
    )


def public_to_bytes(public: PublicKey) -> bytes:
    """Return the one form of a public key."""
    return public.public_bytes_raw()


def public_from_bytes(raw: bytes) -> PublicKey:
    """Read a public key. Raises FormatError unless it is in its one form."""
    if len(raw) != KEY_BYTES or int.from_bytes(raw, "little") >= _FIELD:
        raise FormatError(f"{len(raw)} bytes are not an X25519 public key")
    return PublicKey.from_public_bytes(raw)


def public_to_text(public: PublicKey) -> str:
    """Return a public key as base64."""
    return strict.to_base64(public_to_bytes(public))


def public_from_text(text: str) -> PublicKey:
    """Read a public key as base64. Raises FormatError."""
    return public_from_bytes(strict.base64_of(KEY_BYTES)(text, "the public key"))


def private_to_bytes(private: PrivateKey) -> bytes:
    """Return a private key, not encrypted."""
    return private.private_bytes_raw()


def private_from_bytes(raw: bytes) -> PrivateKey:
    """Read a private key. Raises FormatError."""
    if len(raw) != KEY_BYTES:
        raise FormatError(f"{len(raw)} bytes are not an X25519 private key")
    return PrivateKey.from_private_bytes(raw)


def private_to_text(private: PrivateKey) -> str:
    """Return a private key as base64, not encrypted."""
    return strict.to_base64(private_to_bytes(private))


def private_from_text(text: str) -> PrivateKey:
    """Read a private key as base64. Raises FormatError."""
    return private_from_bytes(strict.base64_of(KEY_BYTES)(text, "the private key"))


def sealed_to_text(sealed: bytes) -> str:
    """Return an encrypted data key as base64."""
    return strict.to_base64(sealed)


def sealed_from_text(text: str) -> bytes:
    """Read an encrypted data key as base64, and do not open it. Raises FormatError."""
    return strict.base64_of(SEALED_BYTES)(text, "the encrypted key")


def claim_mark(public_text: str) -> str:
    """Return what begins a message about the claim with this public key, as base64."""
    return f"claim {hashlib.sha256(public_text.encode()).hexdigest()[:MARK_CHARS]}: "


def _info(purpose: str, binding: Binding, claimant: Claimant | None = None) -> bytes:
    """Return what both sides must say alike; two different ones are never the same bytes."""
    value = {
        "purpose": purpose,
        "namespace": binding.namespace,
        "podUid": binding.pod_uid,
        "ownerUid": binding.owner_uid,
        "checkpoint": binding.checkpoint_id,
    }
    if claimant is not None:
        value |= {"claimantPodUid": claimant.pod_uid, "claimantNode": claimant.node}
    return strict.canonical(value)


def _encrypt(data_key: bytes, public: PublicKey, info: bytes) -> bytes:
    if len(data_key) != DATA_KEY_BYTES:
        raise FormatError(f"{len(data_key)} bytes are not a data key")
    try:
        return _SUITE.encrypt(data_key, public, info)
    except ValueError as error:
        # One of the few points with which everybody shares the same secret.
        raise FormatError("nothing can be kept secret with that public key") from error


def _decrypt(sealed: bytes, private: PrivateKey, info: bytes, refusal: str) -> bytes:
    try:
        data_key = _SUITE.decrypt(sealed, private, info)
    except InvalidTag as error:
        raise FormatError(refusal) from error
    if len(data_key) != DATA_KEY_BYTES:
        raise FormatError(f"what was encrypted has {len(data_key)} bytes and is not a data key")
    return data_key
