"""A sealed checkpoint's envelope: as it is, and with a body that its node has really signed.

An input that begins with ``body`` is signed here, so that what a stolen node could say is judged
behind the signature, too.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from architect.checkpoint import envelope, keys, manifest, strict
from architect.checkpoint.envelope import Codec, Envelope, Shard
from architect.checkpoint.manifest import Piece
from architect.core.errors import FormatError, Rejected
from architect.pki import certificates, node_identity
from fuzz import mutations
from support.checkpointdirs import about

SIGNED: Final = b"body"
CREATED: Final = about().created

Signer = tuple[x509.Certificate, certificates.PrivateKey]


def mutate(random_: random.Random, data: bytes, others: mutations.Others) -> bytes:
    """Change the document, and leave alone what says how it is taken."""
    prefix = SIGNED if data.startswith(SIGNED) else b""
    bare = [other.removeprefix(SIGNED) for other in others]
    return prefix + mutations.canonical(random_, data.removeprefix(SIGNED), bare)


MUTATE = mutate


def seeds() -> Iterator[bytes]:
    certificate, key = _node()
    sealed = envelope.seal(_good(), key=key, certificate=certificate)
    yield sealed
    yield SIGNED + json.loads(sealed)["body"].encode()


def run(data: bytes) -> None:
    if data.startswith(SIGNED):
        data = _signed(data.removeprefix(SIGNED))
    try:
        found = envelope.from_bytes(data, authorities=[_authority()[0]])
    except (FormatError, Rejected) as error:
        assert len(str(error)) < 3000
        return
    assert found.manifest.about.node == "node-a"
    assert len(found.shards) == envelope.shards_of(found.manifest.total_bytes)
    certificate, key = _node()
    again = envelope.seal(found, key=key, certificate=certificate)
    assert json.loads(again)["body"] == json.loads(data)["body"]


def _good() -> Envelope:
    pieces = [
        Piece(name="app/image/pages-1.img", size=1, mode=0o600, hashes=("c" * 64,)),
        Piece(name="app/layer.tar", size=envelope.SHARD_BYTES, mode=0o600, hashes=("c" * 64,)),
    ]
    return Envelope(
        manifest=manifest.make(about(node="node-a"), pieces),
        attempt="0123456789abcdef",
        shards=(
            Shard(size=5000, hash="a" * 64, codec=Codec.ZSTD),
            Shard(size=1 + envelope.OVERHEAD_BYTES, hash="b" * 64, codec=Codec.NONE),
        ),
        sealed=CREATED,
        key_id="e" * keys.KEY_ID_CHARS,
        wrapped_key=bytes(keys.SEALED_BYTES),
    )


def _signed(body: bytes) -> bytes:
    certificate, key = _node()
    text = body.decode("ascii", "replace").replace("\ufffd", "?")
    signature = key.sign(envelope._PURPOSE + text.encode(), ec.ECDSA(hashes.SHA256()))
    return strict.canonical(
        {
            "version": envelope.VERSION,
            "body": text,
            "signature": strict.to_base64(signature),
            "chain": certificates.to_pem(certificate).decode("ascii"),
        }
    )


@functools.cache
def _authority() -> Signer:
    return certificates.make_authority("trusted", now=CREATED, life=timedelta(days=90))


@functools.cache
def _node() -> Signer:
    key = certificates.make_key()
    certificate = certificates.issue(
        *_authority(),
        key.public_key(),
        common_name=node_identity.COMMON_NAME,
        dns_names=(node_identity.dns_name_of("node-a"),),
        usages=node_identity.USAGES,
        now=CREATED,
        life=timedelta(days=1),
    )
    return certificate, key
