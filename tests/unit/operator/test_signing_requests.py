"""Who gets a certificate, judged from what the API server says and from the request itself."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from architect.operator import authority, signing_requests
from architect.operator.signing_requests import (
    NODE_NAME,
    Approve,
    Deny,
    Fail,
    Grant,
    Refusal,
    Sign,
    decide,
    judge,
)
from architect.pki import certificates, node_identity

ACCOUNT = "system:serviceaccount:architect:architect-daemon"
NAME = x509.NameAttribute(NameOID.COMMON_NAME, node_identity.COMMON_NAME)
KEY = certificates.make_key()
SHA256 = hashes.SHA256()


def encoded(pem: bytes) -> str:
    return base64.b64encode(pem).decode()


def request(
    *names: x509.GeneralName,
    key: Any = KEY,
    subject: tuple[x509.NameAttribute[str], ...] = (NAME,),
    hash_: hashes.SHA256 | None = SHA256,
    more: Callable[
        [x509.CertificateSigningRequestBuilder], x509.CertificateSigningRequestBuilder
    ] = lambda b: b,
) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signed = more(builder).sign(key, hash_)
    return encoded(signed.public_bytes(serialization.Encoding.PEM))


def dns(text: str) -> x509.DNSName:
    return x509.DNSName(text)


NODE_A = dns("node-a.node.architect.internal")


def spec(**changes: Any) -> dict[str, Any]:
    return {
        "signerName": "architect.dev/daemon",
        "username": ACCOUNT,
        "groups": ["system:serviceaccounts", "system:authenticated"],
        "extra": {
            NODE_NAME: ["node-a"],
            "authentication.kubernetes.io/pod-name": ["architect-daemon-abcde"],
        },
        "usages": ["client auth", "server auth"],
        "expirationSeconds": 86400,
        "request": encoded(node_identity.make_request(KEY, "node-a")),
        **changes,
    }


def test_a_daemon_gets_its_own_nodes_certificate() -> None:
    verdict = judge(spec(), account=ACCOUNT)
    assert isinstance(verdict, Grant)
    assert (verdict.node, verdict.life) == ("node-a", authority.LIFE)
    assert verdict.public_key == KEY.public_key()


@pytest.mark.parametrize(
    ("changes", "life"),
    [
        ({"usages": ["server auth", "client auth"]}, 86400),
        ({"expirationSeconds": 3600}, 3600),
        ({"expirationSeconds": None}, 86400),
        ({"expirationSeconds": 10 * 365 * 86400}, 86400),
    ],
)
def test_what_may_differ(changes: dict[str, Any], life: int) -> None:
    verdict = judge(spec(**changes), account=ACCOUNT)
    assert isinstance(verdict, Grant)
    assert verdict.life == timedelta(seconds=life)


def forged_signature() -> str:
    pem = node_identity.make_request(KEY, "node-a")
    der = bytearray(x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    body = base64.encodebytes(bytes(der))
    return encoded(
        b"-----BEGIN CERTIFICATE REQUEST-----\n" + body + b"-----END CERTIFICATE REQUEST-----\n"
    )


def foreign_key() -> str:
    """A request for the key of another, whose private half the requestor has not."""
    pem = node_identity.make_request(KEY, "node-a")
    der = x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER)
    form = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    mine = KEY.public_key().public_bytes(*form)
    other = certificates.make_key().public_key().public_bytes(*form)
    assert der.count(mine) == 1
    body = base64.encodebytes(der.replace(mine, other))
    return encoded(
        b"-----BEGIN CERTIFICATE REQUEST-----\n" + body + b"-----END CERTIFICATE REQUEST-----\n"
    )


OWN = node_identity.make_request(KEY, "node-a")

HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "another account": ({"username": "system:serviceaccount:architect:default"}, "NotADaemon"),
    "another namespace": (
        {"username": "system:serviceaccount:evil:architect-daemon"}, "NotADaemon"),
    "a node": ({"username": "system:node:node-a"}, "NotADaemon"),
    "an administrator": ({"username": "kubernetes-admin"}, "NotADaemon"),
    "no account": ({"username": None}, "NotADaemon"),
    "a token without a pod": ({"extra": {}}, "NoNode"),
    "no extra at all": ({"extra": None}, "NoNode"),
    "an empty node": ({"extra": {NODE_NAME: []}}, "NoNode"),
    "two nodes": ({"extra": {NODE_NAME: ["node-a", "node-b"]}}, "NoNode"),
    "a node as text": ({"extra": {NODE_NAME: "node-a"}}, "NoNode"),
    "a token of another node": ({"extra": {NODE_NAME: ["node-b"]}}, "WrongNode"),
    "a node that is no name": ({"extra": {NODE_NAME: ["*"]}}, "WrongName"),
    "a node too long": ({"extra": {NODE_NAME: [".".join(["a" * 63] * 4)]}}, "WrongName"),
    "server only": ({"usages": ["server auth"]}, "WrongUsages"),
    "client only": ({"usages": ["client auth"]}, "WrongUsages"),
    "a third usage": ({"usages": ["client auth", "server auth", "cert sign"]}, "WrongUsages"),
    "any usage": ({"usages": ["any"]}, "WrongUsages"),
    "a usage twice": ({"usages": ["client auth", "client auth"]}, "WrongUsages"),
    "no usages": ({"usages": None}, "WrongUsages"),
    "too short a life": ({"expirationSeconds": 599}, "WrongLife"),
    "a negative life": ({"expirationSeconds": -1}, "WrongLife"),
    "a life as text": ({"expirationSeconds": "86400"}, "WrongLife"),
    "a true life": ({"expirationSeconds": True}, "WrongLife"),
    "no request": ({"request": None}, "BadRequest"),
    "an empty request": ({"request": ""}, "BadRequest"),
    "not base64": ({"request": "%%%"}, "BadRequest"),
    "not PEM": ({"request": encoded(b"hello")}, "BadRequest"),
    "a certificate": (
        {"request": encoded(OWN.replace(b"CERTIFICATE REQUEST", b"CERTIFICATE"))}, "BadRequest"),
    "two requests": ({"request": encoded(OWN + OWN)}, "BadRequest"),
    "huge": ({"request": encoded(b"A" * 20000)}, "BadRequest"),
    "a forged signature": ({"request": forged_signature()}, "WrongKey"),
    "a key of another": ({"request": foreign_key()}, "WrongKey"),
    "RSA": (
        {"request": request(NODE_A, key=rsa.generate_private_key(65537, 2048))}, "WrongKey"),
    "a small RSA key": (
        {"request": request(NODE_A, key=rsa.generate_private_key(65537, 1024))}, "WrongKey"),
    "P-384": ({"request": request(NODE_A, key=ec.generate_private_key(ec.SECP384R1()))},
              "WrongKey"),
    "Ed25519": ({"request": request(NODE_A, key=ed25519.Ed25519PrivateKey.generate(),
                                    hash_=None)}, "WrongKey"),
    "another node's name": (
        {"request": encoded(node_identity.make_request(KEY, "node-b"))}, "WrongNode"),
    "two names": ({"request": request(NODE_A, dns("node-b.node.architect.internal"))},
                  "WrongNode"),
    "its name twice": ({"request": request(NODE_A, NODE_A)}, "WrongNode"),
    "a wildcard": ({"request": request(dns("*.node.architect.internal"))}, "WrongNode"),
    "another case": ({"request": request(dns("NODE-A.node.architect.internal"))}, "WrongNode"),
    "a trailing dot": ({"request": request(dns("node-a.node.architect.internal."))},
                       "WrongNode"),
    "another suffix": ({"request": request(dns("node-a.node.architect.example"))}, "WrongNode"),
    "an address": ({"request": request(NODE_A, x509.IPAddress(
        ipaddress.ip_address("10.0.0.1")))}, "WrongNode"),
    "a URI": ({"request": request(x509.UniformResourceIdentifier("spiffe://x/node-a"))},
              "WrongNode"),
    "a mail address": ({"request": request(NODE_A, x509.RFC822Name("a@b.example"))},
                       "WrongNode"),
    "no names": ({"request": request()}, "MoreAsked"),
    "another common name": ({"request": request(NODE_A, subject=(
        x509.NameAttribute(NameOID.COMMON_NAME, "system:masters"),))}, "WrongName"),
    "an organisation": ({"request": request(NODE_A, subject=(
        NAME, x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters")))}, "WrongName"),
    "no subject": ({"request": request(NODE_A, subject=())}, "WrongName"),
    "to be an authority": ({"request": request(NODE_A, more=lambda b: b.add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=True))}, "MoreAsked"),
    "extended usages": ({"request": request(NODE_A, more=lambda b: b.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False))},
        "MoreAsked"),
    "a challenge": ({"request": request(NODE_A, more=lambda b: b.add_attribute(
        AttributeOID.CHALLENGE_PASSWORD, b"x"))}, "MoreAsked"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_everything_else_is_refused_by_name(what: str) -> None:
    changes, reason = HOSTILE[what]
    verdict = judge(spec(**changes), account=ACCOUNT)
    assert isinstance(verdict, Refusal)
    assert verdict.reason == reason
    assert verdict.message
    assert len(verdict.message) < 1000


@given(st.binary(max_size=400))
def test_no_request_makes_the_judge_fail(raw: bytes) -> None:
    armoured = b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(raw)
    armoured += b"-----END CERTIFICATE REQUEST-----\n"
    for pem in (raw, armoured):
        assert isinstance(judge(spec(request=encoded(pem)), account=ACCOUNT), Refusal)


@given(st.integers(0, len(OWN) - 1), st.integers(0, 255))
def test_a_request_with_one_byte_changed_is_refused_or_the_same(at: int, value: int) -> None:
    pem = bytearray(OWN)
    pem[at] = value
    verdict = judge(spec(request=encoded(bytes(pem))), account=ACCOUNT)
    if isinstance(verdict, Grant):
        assert (verdict.node, verdict.public_key) == ("node-a", KEY.public_key())


def csr(status: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {"metadata": {"name": "x"}, "spec": spec(**changes), "status": status or {}}


def condition(kind: str) -> dict[str, Any]:
    return {"conditions": [{"type": kind, "status": "True", "reason": "R", "message": "m"}]}


def test_a_request_is_approved_then_signed_then_left_alone() -> None:
    assert isinstance(decide(csr(), account=ACCOUNT), Approve)
    assert isinstance(decide(csr(condition("Approved")), account=ACCOUNT), Sign)
    signed = {**condition("Approved"), "certificate": "x"}
    assert decide(csr(signed), account=ACCOUNT) is None


def test_a_refused_request_is_denied_and_left_alone() -> None:
    assert isinstance(decide(csr(username="evil"), account=ACCOUNT), Deny)
    for settled in ("Denied", "Failed"):
        assert decide(csr(condition(settled)), account=ACCOUNT) is None


def test_an_administrators_approval_spares_no_check() -> None:
    step = decide(csr(condition("Approved"), username="evil"), account=ACCOUNT)
    assert isinstance(step, Fail)
    assert step.refusal.reason == "NotADaemon"


@pytest.mark.parametrize("signer", ["kubernetes.io/kubelet-serving", "architect.dev/other", None])
def test_requests_to_other_signers_are_not_looked_at(signer: str | None) -> None:
    assert decide(csr(signerName=signer, username="evil"), account=ACCOUNT) is None


def test_the_limits_are_where_they_are_said_to_be() -> None:
    most = "A" * (signing_requests.MAX_REQUEST_BYTES * 4 // 3 + 5)
    verdict = judge(spec(request=most), account=ACCOUNT)
    assert isinstance(verdict, Refusal)
    assert str(signing_requests.MAX_REQUEST_BYTES) in verdict.message
