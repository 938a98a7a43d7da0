"""The envelope: read back as it was sealed, refused when anything is amiss."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import assume, given
from hypothesis import strategies as st

from architect.checkpoint import envelope as envelopes
from architect.checkpoint import keys, manifest
from architect.checkpoint.envelope import (
    MAX_BYTES,
    OVERHEAD_BYTES,
    SHARD_BYTES,
    Codec,
    Envelope,
    Shard,
    from_bytes,
    seal,
)
from architect.checkpoint.manifest import Manifest, Piece
from architect.core.errors import FormatError, Rejected
from architect.objectstore.settings import is_prefix
from architect.pki import certificates, node_identity
from support.checkpointdirs import about
from support.jsonvalues import JSON, paths, replace

# A certificate with a negative serial number is read with a warning, and believed by nobody.
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")

CREATED = about().created
ATTEMPT = "0123456789abcdef"
SHA = "c" * 64
PURPOSE = b"architect.dev/checkpoint-envelope/2\0"

Signer = tuple[x509.Certificate, certificates.PrivateKey]


def authority(name: str = "trusted", *, at: datetime = CREATED) -> Signer:
    return certificates.make_authority(name, now=at, life=timedelta(days=90))


TRUSTED = authority()
FOREIGN = authority("foreign")
CLUSTER = keys.make_key()


def certified(
    node: str = "node-a",
    *,
    by: Signer = TRUSTED,
    at: datetime = CREATED,
    names: tuple[str, ...] | None = None,
    usages: Any = node_identity.USAGES,
    key: Any = None,
) -> Signer:
    """Return what *node*'s daemon was given at *at*, for a day."""
    key = key or certificates.make_key()
    certificate = certificates.issue(
        *by,
        key.public_key(),
        common_name=node_identity.COMMON_NAME,
        dns_names=names or (node_identity.dns_name_of(node),),
        usages=usages,
        now=at,
        life=timedelta(days=1),
    )
    return certificate, key


NODE_A = certified()


def of(total: int, checkpoint_id: str = "web-1234", *, node: str = "node-a") -> Manifest:
    layer = total - 1
    pieces = [
        Piece(name="app/image/pages-1.img", size=1, mode=0o600, hashes=(SHA,)),
        Piece(
            name="app/layer.tar",
            size=layer,
            mode=0o600,
            hashes=(SHA,) * manifest.segments_of(layer),
        ),
    ]
    return manifest.make(about(checkpoint_id, node=node), pieces)


TOTAL = SHARD_BYTES + 1000
SHARDS = (
    Shard(size=5000, hash="a" * 64, codec=Codec.ZSTD),
    Shard(size=1000 + OVERHEAD_BYTES, hash="b" * 64, codec=Codec.NONE),
)


def good(of_manifest: Manifest | None = None) -> Envelope:
    made = Envelope(
        manifest=of_manifest or of(TOTAL),
        attempt=ATTEMPT,
        sealed=CREATED,
        shards=SHARDS,
        key_id=keys.key_id(CLUSTER.public_key()),
        wrapped_key=bytes(keys.SEALED_BYTES),
    )
    wrapped = keys.wrap(b"k" * 32, CLUSTER.public_key(), made.binding)
    return dataclasses.replace(made, wrapped_key=wrapped)


GOOD = good()


def sealed(envelope: Envelope = GOOD, by: Signer = NODE_A) -> bytes:
    return seal(envelope, certificate=by[0], key=by[1])


RAW = sealed()


def read(raw: bytes) -> Envelope:
    return from_bytes(raw, authorities=[FOREIGN[0], TRUSTED[0]])


def canonical(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def outer() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(RAW)
    return value


def body() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(outer()["body"])
    return value


def signed(raw_body: str, by: Signer = NODE_A, *, purpose: bytes = PURPOSE) -> bytes:
    """Sign any body, as a node can that does not keep to the rules."""
    certificate, key = by
    signature = key.sign(purpose + raw_body.encode(), ec.ECDSA(hashes.SHA256()))
    return canonical(
        {
            "version": 2,
            "body": raw_body,
            "signature": base64.b64encode(signature).decode(),
            "chain": certificates.to_pem(certificate).decode(),
        }
    )


def of_body(value: dict[str, Any], by: Signer = NODE_A) -> bytes:
    return signed(canonical(value).decode(), by)


def refused(raw: bytes, said: str) -> None:
    with pytest.raises(FormatError, match=said) as caught:
        read(raw)
    assert len(str(caught.value)) < 1500


def untrusted(raw: bytes, said: str) -> None:
    with pytest.raises(Rejected, match=said) as caught:
        read(raw)
    assert caught.value.reason == "Untrusted"
    assert len(str(caught.value)) < 1500


def test_it_comes_back_as_it_was() -> None:
    assert read(RAW) == GOOD
    assert canonical(json.loads(RAW)) == RAW
    assert of_body(body()).startswith(RAW[: RAW.index(b'"signature"')])
    binding = keys.Binding(
        namespace="default", pod_uid="uid-web", owner_uid="o", checkpoint_id="web-1234"
    )
    assert read(RAW).binding == binding
    assert keys.unwrap(read(RAW).wrapped_key, CLUSTER, binding) == b"k" * 32


@st.composite
def _envelopes(draw: st.DrawFn) -> Envelope:
    total = draw(st.integers(1, 5 * SHARD_BYTES))
    shards = []
    for number in range(envelopes.shards_of(total)):
        most = envelopes.shard_length(total, number) + OVERHEAD_BYTES
        codec = draw(st.sampled_from(Codec)) if most > OVERHEAD_BYTES + 1 else Codec.NONE
        size = most if codec is Codec.NONE else draw(st.integers(OVERHEAD_BYTES + 1, most - 1))
        sha = draw(st.binary(min_size=32, max_size=32)).hex()
        shards.append(Shard(size=size, hash=sha, codec=codec))
    return Envelope(
        manifest=of(total),
        attempt=envelopes.new_attempt(),
        sealed=CREATED,
        shards=tuple(shards),
        key_id=draw(st.binary(min_size=8, max_size=8)).hex(),
        wrapped_key=draw(st.binary(min_size=80, max_size=80)),
    )


@given(_envelopes())
def test_any_envelope_that_can_be_sealed_comes_back(envelope: Envelope) -> None:
    assert read(sealed(envelope)) == envelope


def test_a_checkpoint_without_a_byte_has_no_shards() -> None:
    piece = Piece(name="app/image/x", size=0, mode=0o600, hashes=())
    bare = dataclasses.replace(
        about(), containers={"app": dataclasses.replace(about().containers["app"], layer=None)}
    )
    empty = dataclasses.replace(GOOD, manifest=manifest.make(bare, [piece]), shards=())
    assert read(sealed(empty)) == empty


@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(at: int, change: int) -> None:
    raw = bytearray(RAW)
    raw[at] ^= change
    with pytest.raises((FormatError, Rejected)):
        read(bytes(raw))


@given(st.integers(0, len(RAW) - 1), st.integers(0, 50))
def test_anything_cut_out_is_refused(at: int, length: int) -> None:
    raw = RAW[:at] + RAW[at + length + 1 :]
    with pytest.raises((FormatError, Rejected)):
        read(raw)


DER = NODE_A[0].public_bytes(serialization.Encoding.DER)


def pem(der: bytes) -> str:
    text = base64.b64encode(der).decode()
    lines = [text[n : n + 64] for n in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


def test_the_count_of_unused_bits_which_is_not_signed_is_refused_where_it_could_be_changed() -> (
    None
):
    leaf, _ = next(c for c in iter(certified, None) if not c[0].signature[-1] & 1)
    assert certificates.is_signed_by(leaf, TRUSTED[0])
    der = bytearray(leaf.public_bytes(serialization.Encoding.DER))
    der[-len(leaf.signature) - 1] = 1
    changed = x509.load_der_x509_certificate(bytes(der))
    changed.verify_directly_issued_by(TRUSTED[0])  # it alone would take it
    assert not certificates.is_signed_by(changed, TRUSTED[0])


@given(st.integers(0, len(DER) - 1), st.integers(1, 255))
def test_any_changed_byte_of_the_certificate_is_refused(at: int, change: int) -> None:
    assert pem(DER) == outer()["chain"]
    der = bytearray(DER)
    der[at] ^= change
    with pytest.raises((FormatError, Rejected)):
        read(canonical({**outer(), "chain": pem(bytes(der))}))


@given(st.sampled_from(paths(outer())), JSON)
def test_any_changed_field_around_the_body_is_refused(path: tuple[Any, ...], other: Any) -> None:
    changed = outer()
    assume(replace(changed, path, other))
    with pytest.raises((FormatError, Rejected)):
        read(canonical(changed))


@given(st.sampled_from(paths(body())), JSON)
def test_any_changed_field_of_the_body_is_refused(path: tuple[Any, ...], other: Any) -> None:
    changed = body()
    assume(replace(changed, path, other))
    text = canonical(changed).decode()
    untrusted(canonical({**outer(), "body": text}), "not signed with its certificate's key")
    # And the one who may sign: it is refused, or is what it says.
    try:
        found = read(signed(text))
    except FormatError:
        return
    assert found != GOOD
    assert json.loads(sealed(found))["body"] == text


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_fail_otherwise(raw: bytes) -> None:
    with pytest.raises(FormatError):
        read(raw)


@given(st.text(st.characters(codec="ascii"), max_size=300))
def test_no_signed_body_makes_the_reader_fail_otherwise(text: str) -> None:
    with pytest.raises(FormatError):
        read(signed(text))


Change = Callable[[dict[str, Any]], Any]


def put(*path: Any) -> Change:
    *way, new = path
    return lambda value: replace(value, tuple(way), new)


HOSTILE_OUTSIDE: dict[str, tuple[Change, str]] = {
    "a newer version": (put("version", 3), "envelope has version 3 instead of 2"),
    "an older version": (put("version", 1), "envelope has version 1 instead of 2"),
    "no version": (lambda v: v.pop("version"), "version None"),
    "a true version": (put("version", True), "version True"),
    "a version of 1.0": (put("version", 2.0), "whole number"),
    "an unknown key": (put("note", "x"), r"unknown keys: \['note'\]"),
    "a missing key": (lambda v: v.pop("chain"), "envelope.chain is missing"),
    "a body that is an object": (put("body", {}), "no text in ASCII"),
    "a body in another alphabet": (put("body", "ä"), "no text in ASCII"),
    "a body with a surrogate": (put("body", "\udcff"), "no text in ASCII"),
    "no signature": (put("signature", ""), "envelope.signature is no base64 of 1 to 72 bytes"),
    "a long signature": (
        put("signature", base64.b64encode(bytes(73)).decode()), "signature is no base64"),
    "a signature with a newline": (
        lambda v: v.update(signature=v["signature"] + "\n"), "signature is no base64"),
    "no certificate": (put("chain", ""), "envelope.chain: not a PEM certificate"),
    "a certificate of rubbish": (
        put("chain", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        "envelope.chain: not a PEM certificate"),
    "two certificates": (
        lambda v: v.update(chain=v["chain"] + certificates.to_pem(TRUSTED[0]).decode()),
        "not one certificate"),
    "text before the certificate": (
        lambda v: v.update(chain="hello\n" + v["chain"]), "not one certificate in the one form"),
    "a certificate in other lines": (
        lambda v: v.update(chain=v["chain"].replace("\n", "\r\n")), "not one certificate"),
    "a certificate of a later version": (
        put("chain", pem(DER.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1))),
        "envelope.chain: not a PEM certificate: 7 is not a valid"),
    "a long chain": (put("chain", "x" * 8193), "8193 characters, more than 8192"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE_OUTSIDE)
def test_hostile_fields_around_the_body_are_refused_by_name(what: str) -> None:
    change, said = HOSTILE_OUTSIDE[what]
    changed = outer()
    change(changed)
    refused(canonical(changed), said)


def _first(**change: Any) -> Change:
    return lambda value: value["shards"][0].update(change)


def _other_manifest(**change: Any) -> Change:
    def put_manifest(value: dict[str, Any]) -> None:
        inner = json.loads(value["manifest"])
        inner.update(change)
        value["manifest"] = canonical(inner).decode()

    return put_manifest


HOSTILE_INSIDE: dict[str, tuple[Change, str]] = {
    "an unknown key": (put("note", "x"), r"envelope.body has unknown keys"),
    "an unknown key of the key": (put("key", "note", "x"), r"envelope.body.key has unknown keys"),
    "an unknown key of a shard": (_first(note=1), r"envelope.body.shards\[0\] has unknown keys"),
    "a missing key": (lambda v: v.pop("attempt"), "envelope.body.attempt is missing"),
    "other shards' size": (put("shardBytes", 4096), "envelope.body.shardBytes"),
    "an attempt with ..": (put("attempt", "../../0123456789"), "not of the form"),
    "a short attempt": (put("attempt", "0123456789abcde"), "not of the form"),
    "an upper-case attempt": (put("attempt", "0123456789ABCDEF"), "not of the form"),
    "an unknown codec": (_first(codec="lz4"), r"shards\[0\].codec: 'lz4' is not one of"),
    "a codec that is a list": (_first(codec=[]), "is not one of"),
    "a codec that is null": (_first(codec=None), "is not one of"),
    "a short hash": (_first(blake3="c" * 63), "not of the form"),
    "a negative size": (_first(size=-1), "whole number"),
    "a size of no text": (_first(size=OVERHEAD_BYTES), "whole number"),
    "an oversize": (_first(size=SHARD_BYTES + OVERHEAD_BYTES + 1), "whole number"),
    "a size as text": (_first(size="5000"), "whole number"),
    "a size of true": (_first(size=True), "whole number"),
    "compressed, and no smaller": (_first(size=SHARD_BYTES + OVERHEAD_BYTES),
                                   r"shards\[0\]: 8388636 bytes with codec 'zstd'"),
    "not compressed, and smaller": (_first(codec="none"), r"5000 bytes with codec 'none'"),
    "the last one too large": (
        lambda v: v["shards"][1].update(size=1001 + OVERHEAD_BYTES), r"shards\[1\]"),
    "a shard too few": (lambda v: v["shards"].pop(), "1 for 8389608 bytes instead of 2"),
    "a shard too many": (lambda v: v["shards"].append(v["shards"][0]), "3 for 8389608"),
    "no shards": (put("shards", []), "0 for 8389608"),
    "more shards than there can be": (put("shards", [0] * 262_145), "more than 262144"),
    "an object for shards": (put("shards", {}), "shards is no list"),
    "a short key id": (put("key", "id", "abc"), "not of the form"),
    "a wrapped key of another length": (
        put("key", "wrapped", base64.b64encode(bytes(79)).decode()), "no base64 of 80 bytes"),
    "a wrapped key in another form": (
        lambda v: v["key"].update(wrapped=v["key"]["wrapped"] + " "), "no base64 of 80 bytes"),
    "a list for the key": (put("key", []), "envelope.body.key is no object"),
    "no manifest": (put("manifest", ""), "manifest is not JSON"),
    "a manifest as an object": (put("manifest", {}), "envelope.body.manifest is no text"),
    "a manifest in another form": (
        lambda v: v.update(manifest=" " + v["manifest"]), "manifest is not in the one form"),
    "a manifest of a newer version": (_other_manifest(version=3), "manifest has version 3"),
    "a manifest with an id of dots": (_other_manifest(id=".."), "manifest.id"),
    "a manifest with a namespace of dots": (_other_manifest(namespace=".."), "manifest.namespace"),
    "a manifest that is too large": (
        put("manifest", "x" * (manifest.MAX_BYTES + 1)), "manifest of 8388609 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE_INSIDE)
def test_a_hostile_body_is_refused_by_name_though_it_is_signed(what: str) -> None:
    change, said = HOSTILE_INSIDE[what]
    changed = body()
    change(changed)
    refused(of_body(changed), said)


DEEP = ['{"a":' * 900 + "1" + "}" * 900, "[" * 900 + "]" * 900, "[" * 200_000]


@pytest.mark.parametrize("text", DEEP, ids=["objects", "lists", "without end"])
def test_nesting_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        read(text.encode() + b"\n")
    with pytest.raises(FormatError):
        read(RAW.replace(b'"version":2', b'"version":' + text.encode()))
    with pytest.raises(FormatError):
        read(RAW.replace(b'"version":2', b'"more":' + text.encode() + b',"version":2'))
    with pytest.raises(FormatError):
        read(signed(text))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b" " + RAW, "one form"),
        (RAW.rstrip(), "one form"),
        (json.dumps(outer(), indent=1).encode(), "one form"),
        (RAW.replace(b'{"body"', b'{"body":"x","body"'), "one form"),
        (b"[]", "no object"),
        (RAW[:-2], "not JSON"),
        (b'{"version":' + b"1" * 5000 + b"}", "not JSON"),
        (b"x" * (MAX_BYTES + 1), "at most"),
        ('{"version":"ä"}'.encode(), "not JSON"),
    ],
    ids=["space", "no newline", "indented", "key twice", "list", "cut", "number", "large",
         "not ASCII"],
)  # fmt: skip
def test_another_form_is_refused(raw: bytes, said: str) -> None:
    refused(raw, said)


def test_a_body_in_another_form_is_refused_though_it_is_signed() -> None:
    text = canonical(body()).decode()
    for other in (text.rstrip(), " " + text, json.dumps(body(), sort_keys=True, indent=1),
                  text.replace('{"attempt"', '{"attempt":"x","attempt"')):  # fmt: skip
        refused(signed(other), "envelope.body is not in the one form")


def test_another_authoritys_node_is_not_believed() -> None:
    raw = sealed(by=certified(by=FOREIGN))
    with pytest.raises(Rejected, match="not signed by a trusted authority"):
        from_bytes(raw, authorities=[TRUSTED[0]])
    assert from_bytes(raw, authorities=[TRUSTED[0], FOREIGN[0]]) == GOOD


def test_without_an_authority_nobody_is_believed() -> None:
    with pytest.raises(Rejected, match="not signed by a trusted authority"):
        from_bytes(RAW, authorities=[])


def test_an_authoritys_namesake_is_not_believed() -> None:
    key = certificates.make_key()
    fake = (
        x509.CertificateBuilder()
        .subject_name(TRUSTED[0].subject)
        .issuer_name(TRUSTED[0].subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(CREATED)
        .not_valid_after(CREATED + timedelta(days=9))
        .sign(key, hashes.SHA256())
    )
    untrusted(sealed(by=certified(by=(fake, key))), "not signed by a trusted authority")


def test_a_node_cannot_make_authorities_for_itself() -> None:
    untrusted(of_body(body(), certified(by=NODE_A)), "not signed by a trusted authority")


def test_another_nodes_signature_is_not_believed() -> None:
    untrusted(
        of_body(body(), certified("node-b")), "captured on node 'node-a' and is signed by 'node-b'"
    )
    for node in ("node", "node-a.evil", "evil.node-a", "node-a1"):
        untrusted(of_body(body(), certified(node)), "captured on node 'node-a'")


@pytest.mark.parametrize(
    "at",
    [CREATED - timedelta(days=1, seconds=1), CREATED + certificates.CLOCK_SKEW
     + timedelta(seconds=1)],
    ids=["ended before", "began after"],
)  # fmt: skip
def test_a_certificate_that_was_not_valid_then_is_not_believed(at: datetime) -> None:
    issuer = authority(at=at)
    raw = of_body(body(), certified(by=issuer, at=at))
    with pytest.raises(Rejected, match="certificate that signed it is valid from") as caught:
        from_bytes(raw, authorities=[issuer[0]])
    assert caught.value.reason == "Untrusted"


@pytest.mark.parametrize(
    "at", [CREATED - timedelta(days=1), CREATED + certificates.CLOCK_SKEW], ids=["last", "first"]
)
def test_a_certificate_of_the_very_second_is_believed(at: datetime) -> None:
    issuer = authority(at=at)
    raw = sealed(by=certified(by=issuer, at=at))
    assert from_bytes(raw, authorities=[issuer[0]]) == GOOD


def test_an_old_checkpoint_is_read_long_after_its_certificate_ended() -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    old = dataclasses.replace(about(), created=long_ago)
    issuer = authority(at=long_ago)
    envelope = dataclasses.replace(good(manifest.make(old, GOOD.manifest.pieces)), sealed=long_ago)
    raw = sealed(envelope, certified(by=issuer, at=long_ago))
    assert from_bytes(raw, authorities=[issuer[0]]) == envelope


def test_a_certificate_for_other_uses_is_not_believed() -> None:
    by = certified(usages=(ExtendedKeyUsageOID.SERVER_AUTH,))
    untrusted(of_body(body(), by), "not a daemon's certificate: it is for other uses")
    by = certified(names=("web.example.com",))
    untrusted(of_body(body(), by), "is not a node's name")
    by = certified(names=("node-a.node.architect.internal", "node-b.node.architect.internal"))
    untrusted(of_body(body(), by), "other names than one")


def test_an_authority_itself_is_no_node() -> None:
    untrusted(of_body(body(), TRUSTED), "not a daemon's certificate")


def test_a_certificate_of_another_kind_of_key_is_not_believed() -> None:
    by = certified(key=rsa.generate_private_key(public_exponent=65537, key_size=2048))
    raw = canonical({**outer(), "chain": certificates.to_pem(by[0]).decode()})
    untrusted(raw, "not signed with its certificate's key")


def test_a_signature_of_something_else_is_not_believed() -> None:
    text = outer()["body"]
    said = "not signed with its certificate's key, or changed since"
    untrusted(signed(text, purpose=b""), said)
    untrusted(signed(text, purpose=PURPOSE[:-2] + b"1\0"), said)
    untrusted(canonical({**outer(), "chain": certificates.to_pem(certified()[0]).decode()}), said)
    untrusted(canonical({**outer(), "signature": base64.b64encode(b"x" * 70).decode()}), said)


def test_nothing_moves_from_one_checkpoint_to_another() -> None:
    other = good(of(TOTAL, "web-5678"))
    theirs = json.loads(sealed(other))
    ours = outer()
    for field in ("body", "signature"):
        untrusted(canonical({**ours, field: theirs[field]}), "not signed with its certificate's")
    for field in ("manifest", "key"):
        mixed = {**body(), field: json.loads(theirs["body"])[field]}
        untrusted(canonical({**ours, "body": canonical(mixed).decode()}), "not signed with")
    # A node that signs it itself gains nothing: the data key is of another checkpoint.
    swapped = read(of_body({**body(), "key": json.loads(theirs["body"])["key"]}))
    with pytest.raises(FormatError, match="for another checkpoint"):
        keys.unwrap(swapped.wrapped_key, CLUSTER, swapped.binding)


def test_what_no_reader_would_take_is_not_sealed() -> None:
    certificate, key = NODE_A
    with pytest.raises(FormatError, match="for another key"):
        seal(GOOD, certificate=certificate, key=certificates.make_key())
    with pytest.raises(Rejected, match="signed by 'node-b'"):
        sealed(by=certified("node-b"))
    with pytest.raises(Rejected, match="valid from"):
        sealed(by=certified(at=CREATED + timedelta(hours=1)))
    with pytest.raises(FormatError, match="1 for"):
        seal(dataclasses.replace(GOOD, shards=SHARDS[:1]), certificate=certificate, key=key)
    with pytest.raises(FormatError, match="attempt"):
        seal(dataclasses.replace(GOOD, attempt="../x"), certificate=certificate, key=key)
    with pytest.raises(FormatError, match="wrapped"):
        seal(dataclasses.replace(GOOD, wrapped_key=b""), certificate=certificate, key=key)


def test_the_most_shards_leave_room_for_the_largest_manifest() -> None:
    one = {"size": SHARD_BYTES, "blake3": SHA, "codec": "zstd"}
    text = json.dumps(json.dumps(one, separators=(",", ":")) + ",")[1:-1]
    assert len(text) == 118
    assert envelopes.MAX_SHARDS * len(text) + 11 * 1024**2 < MAX_BYTES
    assert envelopes.MAX_SHARDS <= 10**6, "six digits"


def test_the_largest_manifest_has_room_with_its_quotes_escaped_twice() -> None:
    # As many pieces as there may be, and hashes for the rest.
    made = manifest.to_bytes(of(TOTAL))
    pieces = 20_000 * len('{"mode":384,"name":"a","blake3":[],"size":1},')
    hashes_ = (manifest.MAX_BYTES - pieces) // len(f'"{SHA}",')
    quotes = 20_000 * 10 + 2 * hashes_ + made.count(b'"')
    assert manifest.MAX_BYTES + 3 * quotes < 11 * 1024**2


@given(st.integers(1, 2**41))
def test_shards_are_all_bytes_and_no_more(total: int) -> None:
    count = envelopes.shards_of(total)
    assert (count - 1) * SHARD_BYTES + envelopes.shard_length(total, count - 1) == total
    assert envelopes.shard_length(total, 0) == min(total, SHARD_BYTES)
    for number in (-1, count):
        with pytest.raises(FormatError, match="have no shard"):
            envelopes.shard_length(total, number)


def test_keys_in_the_bucket() -> None:
    assert envelopes.prefix_of("default", "web-1234") == "default/web-1234/"
    assert envelopes.manifest_key("default", "web-1234") == "default/web-1234/manifest.json"
    assert (
        envelopes.shard_key("default", "web-1234", ATTEMPT, 7, below="clusters/one")
        == f"clusters/one/default/web-1234/{ATTEMPT}/000007"
    )
    assert envelopes.is_attempt(envelopes.new_attempt())
    assert envelopes.new_attempt() != envelopes.new_attempt()


def test_no_key_is_longer_than_a_store_takes() -> None:
    key = envelopes.shard_key(
        "n" * 63, "i" * 128, ATTEMPT, envelopes.MAX_SHARDS - 1,
        below="/".join(["p" * 127] * 4),
    )  # fmt: skip
    assert len(key) <= 1024


PREFIXES = {"": True, "a": True, "a/b": True, "a.b/c=d_e-f": True, "a..b": True, "p" * 128: True,
            "/": False, "/a": False, "a/": False, "a//b": False, ".": False, "..": False,
            "a/../b": False, "a/.b": False, "-a": True, "a b": False, "a\n": False, "ä": False,
            "a%2fb": False, "a\\b": False, "a?b": False, "a#b": False, "a\0": False,
            "p" * 129: False, "p/" * 300 + "p": False}  # fmt: skip


@pytest.mark.parametrize("text", PREFIXES, ids=lambda text: ascii(text[:20]))
def test_what_may_be_a_prefix(text: str) -> None:
    assert is_prefix(text) is PREFIXES[text]
    if not PREFIXES[text]:
        with pytest.raises(FormatError, match="is no prefix"):
            envelopes.manifest_key("default", "web-1234", below=text)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\n", "ä", "x" * 129])
def test_no_name_leaves_its_place(name: str) -> None:
    with pytest.raises(FormatError, match="not the name of a namespace"):
        envelopes.prefix_of(name, "web-1234")
    with pytest.raises(FormatError, match="not the id of a checkpoint"):
        envelopes.prefix_of("default", name)
    with pytest.raises(FormatError, match="not the name of an upload"):
        envelopes.shard_key("default", "web-1234", name, 0)


@pytest.mark.parametrize("number", [-1, envelopes.MAX_SHARDS])
def test_a_number_without_a_shard_has_no_key(number: int) -> None:
    with pytest.raises(FormatError, match="not the number of a shard"):
        envelopes.shard_key("default", "web-1234", ATTEMPT, number)


@pytest.mark.parametrize("below", ["", "one", "one/two"])
def test_a_key_tells_whose_it_is(below: str) -> None:
    for key in (
        envelopes.manifest_key("default", "uid-1", below=below),
        envelopes.shard_key("default", "uid-1", ATTEMPT, 7, below=below),
    ):
        assert envelopes.place_of(key, below=below) == ("default", "uid-1")
        assert envelopes.place_of(key, below="other") is None
        assert envelopes.place_of(f"{key}/x", below=below) is None
        assert envelopes.place_of(f"more/{key}", below=below) is None


@pytest.mark.parametrize(
    "key",
    [
        "", "default", "default/uid-1", "default/uid-1/", "default/uid-1/other.json",
        f"default/uid-1/{ATTEMPT}", f"default/uid-1/{ATTEMPT}/00000", f"default/uid-1/{ATTEMPT}/x",
        "default/uid-1/short/000000", "Default/uid-1/manifest.json", "default/../manifest.json",
    ],
)  # fmt: skip
def test_other_keys_are_nobodys(key: str) -> None:
    assert envelopes.place_of(key) is None
