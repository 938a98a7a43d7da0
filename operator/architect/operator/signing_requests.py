"""Which CertificateSigningRequests of daemons are granted: objects in, decisions out.

Who asks is known from the API server alone: it writes the requestor's account and, for a token that
is bound to a pod, that pod's node into ``spec`` and lets nobody else. A daemon, hence root on its
node, gets a certificate of its own node and of no other.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier

from architect.api import names
from architect.core.errors import FormatError
from architect.kube import conditions
from architect.operator import authority
from architect.pki import node_identity
from architect.pki.certificates import PublicKey

NODE_NAME: Final = "authentication.kubernetes.io/node-name"
"""Key of ``spec.extra``: the node of the pod that the requestor's token is bound to. By default
since Kubernetes 1.30 (ServiceAccountTokenPodNodeInfo)."""

MAX_REQUEST_BYTES: Final = 16 * 1024
"""One of ours has 500; parsers get no more than this."""

MIN_LIFE: Final = timedelta(minutes=10)
"""The API server accepts no shorter ``expirationSeconds``."""

APPROVED: Final = "Approved"
DENIED: Final = "Denied"
FAILED: Final = "Failed"

_EXTENSION_REQUEST = ObjectIdentifier("1.2.840.113549.1.9.14")
"""The attribute (PKCS #9) in which a request keeps the extensions that it asks for."""

_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What the requestor is to get."""

    node: str
    public_key: PublicKey
    life: timedelta


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why the requestor gets nothing."""

    reason: str
    """A CamelCase word for conditions and metrics."""
    message: str


@dataclass(frozen=True, kw_only=True)
class Approve:
    """Approve the request, then sign it."""

    grant: Grant


@dataclass(frozen=True, kw_only=True)
class Sign:
    """Sign a request that is approved."""

    grant: Grant


@dataclass(frozen=True, kw_only=True)
class Deny:
    """Refuse the request for good."""

    refusal: Refusal


@dataclass(frozen=True, kw_only=True)
class Fail:
    """Say that a request which somebody else approved is not signed."""

    refusal: Refusal


Step: TypeAlias = Approve | Sign | Deny | Fail


def decide(value: Mapping[str, Any], *, account: str) -> Step | None:
    """Return what to do about a CertificateSigningRequest; None: nothing, or it is not ours.

    *account* is the daemons' user name, ``system:serviceaccount:<namespace>:<name>``. An approval
    by somebody else spares no check: an administrator means well and cannot know the node.
    """
    spec, status = value.get("spec") or {}, value.get("status") or {}
    if spec.get("signerName") != names.DAEMON_SIGNER or status.get("certificate"):
        return None
    existing = status.get("conditions") or ()
    if any(conditions.find(existing, settled) for settled in (DENIED, FAILED)):
        return None
    is_approved = conditions.find(existing, APPROVED) is not None
    verdict = judge(spec, account=account)
    if isinstance(verdict, Refusal):
        return Fail(refusal=verdict) if is_approved else Deny(refusal=verdict)
    return Sign(grant=verdict) if is_approved else Approve(grant=verdict)


def judge(spec: Mapping[str, Any], *, account: str) -> Grant | Refusal:
    """Judge the ``spec`` of a request to our signer."""
    if spec.get("username") != account:
        return _refuse("NotADaemon", f"{spec.get('username')!r} is not {account!r}")
    bound = (spec.get("extra") or {}).get(NODE_NAME)
    if not isinstance(bound, list) or len(bound) != 1 or not isinstance(bound[0], str):
        return _refuse(
            "NoNode",
            f"the requestor's token names no node in {NODE_NAME}: it is not bound to a pod, or "
            "Kubernetes is older than 1.30",
        )
    usages = spec.get("usages")
    if not isinstance(usages, list) or sorted(map(str, usages)) != sorted(
        node_identity.REQUEST_USAGES
    ):
        return _refuse(
            "WrongUsages", f"usages {usages!r:.200} are not {list(node_identity.REQUEST_USAGES)}"
        )
    life = _life(spec.get("expirationSeconds"))
    if life is None:
        return _refuse("WrongLife", f"expirationSeconds {spec.get('expirationSeconds')!r:.50}")
    request = _read(spec.get("request"))
    if isinstance(request, Refusal):
        return request
    key = _key(request)
    if isinstance(key, Refusal):
        return key
    if (problem := _what_else_is_asked(request, node=bound[0])) is not None:
        return problem
    return Grant(node=bound[0], public_key=key, life=life)


def _life(seconds: Any) -> timedelta | None:
    if seconds is None:
        return authority.LIFE
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        return None
    if seconds < MIN_LIFE.total_seconds():
        return None
    return min(authority.LIFE, timedelta(seconds=min(seconds, 2**31)))


def _read(encoded: Any) -> x509.CertificateSigningRequest | Refusal:
    if not isinstance(encoded, str) or len(encoded) > MAX_REQUEST_BYTES * 4 // 3 + 4:
        return _refuse("BadRequest", f"no request, or one of more than {MAX_REQUEST_BYTES} bytes")
    try:
        pem = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return _refuse("BadRequest", "the request is not base64")
    if pem.count(b"-----BEGIN") != 1:
        return _refuse("BadRequest", "the request is not exactly one PEM block")
    try:
        return x509.load_pem_x509_csr(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        return _refuse("BadRequest", f"the request is not PKCS #10: {error!s:.200}")


def _key(request: x509.CertificateSigningRequest) -> PublicKey | Refusal:
    """Return the key, if its holder made the request."""
    try:
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(
            key.curve, ec.SECP256R1
        ):
            return _refuse("WrongKey", "the key is not one of the curve P-256")
        if not isinstance(request.signature_hash_algorithm, _HASHES):
            return _refuse("WrongKey", "the signature's hash is not of the family SHA-2")
        if not request.is_signature_valid:
            return _refuse("WrongKey", "the request is not signed with its own key")
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        return _refuse("WrongKey", f"the key or signature is not understood: {error!s:.200}")
    return key


def _what_else_is_asked(request: x509.CertificateSigningRequest, *, node: str) -> Refusal | None:
    """Return what is not as a daemon asks.

    Whatever is asked, the certificate is built from nothing but node and key. A request for more
    is refused nevertheless: who makes one is not our daemon.
    """
    try:
        wanted = node_identity.dns_name_of(node)
        subject = [(a.oid, a.value) for a in request.subject]
        if subject != [(NameOID.COMMON_NAME, node_identity.COMMON_NAME)]:
            return _refuse(
                "WrongName",
                f"the subject is {request.subject.rfc4514_string()!r:.300} instead of "
                f"'CN={node_identity.COMMON_NAME}'",
            )
        attributes = [a.oid for a in request.attributes]
        if attributes != [_EXTENSION_REQUEST]:
            return _refuse("MoreAsked", "attributes besides the names are asked for")
        extensions = list(request.extensions)
    except FormatError as error:
        return _refuse("WrongName", str(error))
    except (ValueError, TypeError, x509.DuplicateExtension, UnsupportedAlgorithm) as error:
        return _refuse("BadRequest", f"the request is not understood: {error!s:.200}")
    if len(extensions) != 1 or not isinstance(extensions[0].value, x509.SubjectAlternativeName):
        asked = [e.oid.dotted_string for e in extensions]
        return _refuse("MoreAsked", f"extensions besides the names are asked for: {asked}")
    if list(extensions[0].value) != [x509.DNSName(wanted)]:
        found = [f"{type(n).__name__} {n.value!s:.100}" for n in extensions[0].value][:5]
        return _refuse("WrongNode", f"asked for {found}, and the token is one of {wanted}")
    return None


def _refuse(reason: str, message: str) -> Refusal:
    return Refusal(reason=reason, message=message)
