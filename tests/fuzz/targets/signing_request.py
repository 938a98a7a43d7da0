"""A daemon's request for a certificate, which anybody may make: only its own node's is granted."""

from __future__ import annotations

import base64
import functools
import json
import random
from collections.abc import Iterator
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from architect.api import names
from architect.operator.signing_requests import NODE_NAME, Grant, Refusal, decide, judge
from architect.pki import certificates, node_identity
from fuzz import mutations

ACCOUNT: Final = "system:serviceaccount:architect:architect-daemon"


def mutate(random_: random.Random, data: bytes, others: mutations.Others) -> bytes:
    """Change the object, or the bytes of the request in it."""
    try:
        value = json.loads(data)
        pem = value["request"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return mutations.raw(random_, data, others)
    if random_.randrange(2) or not isinstance(pem, str):
        return mutations.document(random_, data, others)
    try:
        der = base64.b64decode(pem)
    except ValueError:
        return mutations.document(random_, data, others)
    value["request"] = base64.b64encode(mutations.raw(random_, der, [])).decode()
    return json.dumps(value).encode()


MUTATE = mutate


def seeds() -> Iterator[bytes]:
    """Yield specs, with the request in DER, which :func:`run` wraps as PEM."""
    for node in ("node-a", "node-b"):
        yield json.dumps(
            {
                "signerName": names.DAEMON_SIGNER,
                "username": ACCOUNT,
                "extra": {NODE_NAME: ["node-a"]},
                "usages": list(node_identity.REQUEST_USAGES),
                "expirationSeconds": 3600,
                "request": base64.b64encode(_request(node)).decode(),
            }
        ).encode()


def run(data: bytes) -> None:
    try:
        spec = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(spec, dict):
        return
    extra = spec.get("extra")
    # The API server's own words, whose types are not in doubt.
    if extra is not None and not isinstance(extra, dict):
        return
    if isinstance(spec.get("request"), str):
        spec["request"] = base64.b64encode(_pem(spec["request"])).decode()
    found = judge(spec, account=ACCOUNT)
    decide({"spec": spec, "status": {}}, account=ACCOUNT)
    if isinstance(found, Refusal):
        assert found.reason
        return
    assert isinstance(found, Grant)
    assert extra is not None
    assert [found.node] == extra[NODE_NAME]
    asked = x509.load_pem_x509_csr(base64.b64decode(spec["request"]))
    (names_,) = [e.value for e in asked.extensions]
    assert isinstance(names_, x509.SubjectAlternativeName)
    assert [name.value for name in names_] == [node_identity.dns_name_of(found.node)]


def _pem(der: str) -> bytes:
    return b"-----BEGIN CERTIFICATE REQUEST-----\n%s\n-----END CERTIFICATE REQUEST-----\n" % (
        der.encode("ascii", "replace")
    )


@functools.cache
def _request(node: str) -> bytes:
    name = x509.NameAttribute(NameOID.COMMON_NAME, node_identity.COMMON_NAME)
    alternative = x509.SubjectAlternativeName([x509.DNSName(node_identity.dns_name_of(node))])
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([name]))
        .add_extension(alternative, critical=False)
        .sign(certificates.make_key(), hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
