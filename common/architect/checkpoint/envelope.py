"""A checkpoint in an object store: its envelope, and where it and its shards lie.

The bytes of all pieces, one after the other in the manifest's order, are cut into shards of
:data:`SHARD_BYTES`, which are encrypted one by one (``architect.daemon.vault``). The envelope names
them by hash, holds the manifest and the encrypted data key, and is signed by the node that took the
checkpoint. It is written last and is the commit: without it there are shards and no checkpoint.

::

    <namespace>/<id>/manifest.json           the envelope
    <namespace>/<id>/<attempt>/000000 …      shards; each upload has an attempt of its own

What an envelope says is believed if a certificate that one of our authorities gave to the node that
the manifest names was valid when the checkpoint was sealed, and its key signed exactly this. Who
had a node's key once can say so for that time for ever: so it is the hash in the ``Checkpoint``
object that names *the* envelope, and whoever fetches one compares it before anything here.

A store is not trusted: everything is limited and refused by name, and the body is not looked at
before its signature was found good.
"""

from __future__ import annotations

import datetime
import enum
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from architect.checkpoint import digests, keys, strict
from architect.checkpoint import manifest as manifests
from architect.checkpoint.manifest import Manifest
from architect.core.errors import FormatError, Rejected
from architect.objectstore.settings import is_prefix
from architect.pki import certificates, node_identity

VERSION: Final = 2
"""In 1 shards had SHA-256."""

SHARD_BYTES: Final = 8 * 1024**2
"""Of plain text in one shard: large enough that a request costs little beside it, small enough that
a dozen under way at once fit into a daemon's memory."""

OVERHEAD_BYTES: Final = 12 + 16
"""Of a sealed shard over its text: nonce and tag."""

MAX_SHARDS: Final = manifests.MAX_TOTAL_BYTES // SHARD_BYTES

MAX_BYTES: Final = 48 * 1024**2
"""Of an envelope: the largest manifest, 11 MiB with its quotes escaped twice, and 118 bytes for
each of the most shards."""

MAX_CHAIN_CHARS: Final = 8192
"""A certificate of ours has about 900 as PEM."""

MAX_SIGNATURE_BYTES: Final = 72
"""Of an ECDSA signature with P-256, in DER."""

UNTRUSTED: Final = "Untrusted"
"""Reason of a refusal: it is an envelope, and none of whom we trust."""

_PURPOSE: Final = b"architect.dev/checkpoint-envelope/2\0"
"""Before what is signed. The same key signs TLS handshakes, with 32 bytes that the other side may
choose at their start in TLS 1.2: this is longer, and what follows there is random."""

_WHAT: Final = "envelope"
_ATTEMPT = re.compile(r"[0-9a-f]{16}")
_NUMBER = re.compile(r"[0-9]{6}")
_KEY_ID = re.compile(rf"[0-9a-f]{{{keys.KEY_ID_CHARS}}}")


class Codec(enum.Enum):
    """What was done to a shard's bytes before they were encrypted."""

    NONE = "none"
    ZSTD = "zstd"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One object with data, as it lies in the store."""

    size: int
    """Bytes, sealed."""
    hash: str
    """Of those (:mod:`.digests`)."""
    codec: Codec


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """One sealed checkpoint. Only :func:`from_bytes` returns one that is checked."""

    manifest: Manifest
    attempt: str
    """Of the upload whose shards these are."""
    shards: tuple[Shard, ...]
    sealed: datetime.datetime
    """In whole seconds, UTC: by a node's key, which lives shorter than an upload may take."""
    key_id: str
    """Of the public key for which the data key was encrypted."""
    wrapped_key: bytes

    @property
    def binding(self) -> keys.Binding:
        """What its data key is bound to."""
        return binding_of(self.manifest)


def binding_of(manifest: Manifest) -> keys.Binding:
    """Return what the data key of a checkpoint is bound to."""
    about = manifest.about
    return keys.Binding(
        namespace=about.namespace,
        pod_uid=about.pod_uid,
        owner_uid=about.owner.uid if about.owner is not None else "",
        checkpoint_id=about.id,
    )


def new_attempt() -> str:
    """Return the name of one upload, so that no shard is ever written over another."""
    return secrets.token_hex(8)


def is_attempt(text: str) -> bool:
    """Whether *text* can be the name of an upload."""
    return _ATTEMPT.fullmatch(text) is not None


def prefix_of(namespace: str, checkpoint_id: str, *, below: str = "") -> str:
    """Return how the keys of all that belongs to one checkpoint begin, with ``/`` at the end.

    *below* is the store's own prefix. Raises FormatError for what cannot be part of a key.
    """
    if not is_prefix(below):
        raise FormatError(
            f"{below!r:.200} is no prefix of keys",
            hint="names of letters, digits, '_', '.', '=' and '-', with '/' between them",
        )
    if not manifests.is_namespace(namespace):
        raise FormatError(f"{namespace!r:.200} is not the name of a namespace")
    if not manifests.is_id(checkpoint_id):
        raise FormatError(f"{checkpoint_id!r:.200} is not the id of a checkpoint")
    return f"{below}/{namespace}/{checkpoint_id}/".removeprefix("/")


def manifest_key(namespace: str, checkpoint_id: str, *, below: str = "") -> str:
    """Return the key of a checkpoint's envelope. Raises FormatError."""
    return prefix_of(namespace, checkpoint_id, below=below) + manifests.NAME


def shard_key(
    namespace: str, checkpoint_id: str, attempt: str, number: int, *, below: str = ""
) -> str:
    """Return the key of shard *number* of one upload. Raises FormatError."""
    if not is_attempt(attempt):
        raise FormatError(f"{attempt!r:.200} is not the name of an upload")
    if not 0 <= number < MAX_SHARDS:
        raise FormatError(f"{number} is not the number of a shard")
    return prefix_of(namespace, checkpoint_id, below=below) + f"{attempt}/{number:06}"


def place_of(key: str, *, below: str = "") -> tuple[str, str] | None:
    """Return namespace and id of the checkpoint to which a whole key belongs; None: to none.

    The whole key is looked at: below our prefix may lie another cluster's.
    """
    start = f"{below}/" if below else ""
    parts = key.removeprefix(start).split("/")
    if not key.startswith(start) or len(parts) not in (3, 4):
        return None
    namespace, checkpoint_id, *rest = parts
    if not (manifests.is_namespace(namespace) and manifests.is_id(checkpoint_id)):
        return None
    is_ours = rest == [manifests.NAME] or (
        len(rest) == 2 and is_attempt(rest[0]) and _NUMBER.fullmatch(rest[1]) is not None
    )
    return (namespace, checkpoint_id) if is_ours else None


def shards_of(total: int) -> int:
    """Return how many shards *total* bytes are."""
    return -(-total // SHARD_BYTES)


def shard_length(total: int, number: int) -> int:
    """Return how many of *total* bytes are in shard *number*. Raises FormatError if it has none."""
    if not 0 <= number < shards_of(total):
        raise FormatError(f"{total} bytes have no shard {number}")
    return min(SHARD_BYTES, total - number * SHARD_BYTES)


def seal(
    envelope: Envelope, *, key: certificates.PrivateKey, certificate: x509.Certificate
) -> bytes:
    """Return the one representation, signed with the *key* of the node's *certificate*.

    Raises FormatError and Rejected for what no reader would take, but does not know who will be
    trusted.
    """
    body = strict.canonical(_value(envelope))
    _read_body(body)
    if not certificates.belong_together(certificate, key):
        raise FormatError("the certificate is for another key than the one to sign with")
    _check_signer(certificate, envelope)
    raw = strict.canonical(
        {
            "version": VERSION,
            "body": body.decode("ascii"),
            "signature": strict.to_base64(key.sign(_PURPOSE + body, ec.ECDSA(hashes.SHA256()))),
            "chain": certificates.to_pem(certificate).decode("ascii"),
        }
    )
    if len(raw) > MAX_BYTES:
        raise FormatError(f"{_WHAT} of {len(raw)} bytes: at most {MAX_BYTES} are read")
    return raw


def from_bytes(raw: bytes, *, authorities: Sequence[x509.Certificate]) -> Envelope:
    """Read an envelope, from whomever, and return it if the node that it names signed it.

    Raises FormatError for what is no envelope, and Rejected (``Untrusted``) for one that is not
    signed, under one of *authorities*, by that node.
    """
    value = strict.parse(raw, _WHAT, most=MAX_BYTES)
    strict.check_version(value, _WHAT, version=VERSION)
    item = strict.Object(value, _WHAT)
    item.take("version", strict.integer(VERSION, VERSION))
    body = item.take("body", _ascii)
    signature = item.take("signature", strict.base64_of(1, MAX_SIGNATURE_BYTES))
    certificate = item.take("chain", _certificate)
    item.end()
    strict.check_form(value, raw, _WHAT)
    if not any(certificates.is_signed_by(certificate, authority) for authority in authorities):
        raise Rejected(
            f"{_WHAT}: its certificate is not signed by a trusted authority", reason=UNTRUSTED
        )
    _check_signature(certificate, signature, body)
    envelope = _read_body(body)
    _check_signer(certificate, envelope)
    return envelope


def _value(envelope: Envelope) -> dict[str, Any]:
    return {
        "manifest": manifests.to_bytes(envelope.manifest).decode("ascii"),
        "attempt": envelope.attempt,
        "sealed": strict.to_time(envelope.sealed),
        "shardBytes": SHARD_BYTES,
        "shards": [
            {"size": s.size, digests.NAME: s.hash, "codec": s.codec.value} for s in envelope.shards
        ],
        "key": {"id": envelope.key_id, "wrapped": keys.sealed_to_text(envelope.wrapped_key)},
    }


def _read_body(raw: bytes) -> Envelope:
    what = f"{_WHAT}.body"
    value = strict.parse(raw, what, most=MAX_BYTES)
    item = strict.Object(value, what)
    item.take("shardBytes", strict.integer(SHARD_BYTES, SHARD_BYTES))
    key = item.take("key", strict.Object)
    envelope = Envelope(
        manifest=manifests.from_bytes(item.take("manifest", _ascii)),
        attempt=item.take("attempt", strict.matching(_ATTEMPT)),
        sealed=item.take("sealed", strict.time),
        shards=item.take("shards", strict.list_of(_shard, MAX_SHARDS)),
        key_id=key.take("id", strict.matching(_KEY_ID)),
        wrapped_key=key.take("wrapped", strict.base64_of(keys.SEALED_BYTES)),
    )
    key.end()
    item.end()
    strict.check_form(_value(envelope), raw, what)
    _check_shards(envelope)
    return envelope


def _shard(value: Any, where: str) -> Shard:
    item = strict.Object(value, where)
    shard = Shard(
        size=item.take("size", strict.integer(OVERHEAD_BYTES + 1, OVERHEAD_BYTES + SHARD_BYTES)),
        hash=item.take(digests.NAME, digests.form),
        codec=item.take("codec", _codec),
    )
    item.end()
    return shard


def _codec(value: Any, where: str) -> Codec:
    try:
        return Codec(value)
    except ValueError as error:
        raise FormatError(
            f"{where}: {value!r:.50} is not one of {[c.value for c in Codec]}",
            hint=strict.OTHER_VERSION,
        ) from error


def _check_shards(envelope: Envelope) -> None:
    total = envelope.manifest.total_bytes
    if len(envelope.shards) != shards_of(total):
        raise FormatError(
            f"{_WHAT}.body.shards: {len(envelope.shards)} for {total} bytes instead of "
            f"{shards_of(total)}"
        )
    for number, shard in enumerate(envelope.shards):
        most = shard_length(total, number) + OVERHEAD_BYTES
        # What compression does not make smaller is not compressed.
        fits = shard.size == most if shard.codec is Codec.NONE else shard.size < most
        if not fits:
            raise FormatError(
                f"{_WHAT}.body.shards[{number}]: {shard.size} bytes with codec "
                f"{shard.codec.value!r} for {most} without one"
            )


def _ascii(value: Any, where: str) -> bytes:
    if not isinstance(value, str) or not value.isascii():
        raise FormatError(f"{where} is no text in ASCII")
    return value.encode("ascii")


def _certificate(value: Any, where: str) -> x509.Certificate:
    pem = _ascii(value, where)
    if len(pem) > MAX_CHAIN_CHARS:
        raise FormatError(f"{where} has {len(pem)} characters, more than {MAX_CHAIN_CHARS}")
    try:
        found, *more = certificates.read_certificates(pem)
    except FormatError as error:
        raise FormatError(f"{where}: {error.message:.200}") from error
    if more or certificates.to_pem(found) != pem:
        raise FormatError(f"{where} is not one certificate in the one form")
    return found


def _check_signature(certificate: x509.Certificate, signature: bytes, body: bytes) -> None:
    """Return if *certificate*'s key signed *body*. Raises Rejected."""
    try:
        public = certificate.public_key()
        if isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(signature, _PURPOSE + body, ec.ECDSA(hashes.SHA256()))
            return
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        pass
    raise Rejected(
        f"{_WHAT}: it was not signed with its certificate's key, or changed since",
        reason=UNTRUSTED,
    )


def _check_signer(certificate: x509.Certificate, envelope: Envelope) -> None:
    """Return if *certificate* is the node's that took the checkpoint. Raises Rejected."""
    about = envelope.manifest.about
    try:
        node = node_identity.node_of(certificate)
    except FormatError as error:
        raise Rejected(f"{_WHAT}: signed with {error.message:.400}", reason=UNTRUSTED) from error
    if node != about.node:
        raise Rejected(
            f"{_WHAT}: {about.id} was captured on node {about.node!r:.260} and is signed by "
            f"{node!r:.260}",
            reason=UNTRUSTED,
        )
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start <= envelope.sealed <= end:
        raise Rejected(
            f"{_WHAT}: {about.id} was sealed at {envelope.sealed}, and the certificate that signed "
            f"it is valid from {start} to {end}",
            reason=UNTRUSTED,
        )
