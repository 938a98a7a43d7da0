"""A store for credentials that end: it takes session tokens, which versitygw refuses.

It verifies AWS' Signature Version 4 in the header. What is put is not kept, and no list has
anything: everything but credentials is tested against versitygw.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from architect.objectstore.settings import StoreSettings
from support.cloudmetadata.server import MetadataServer, Reply, Request

BUCKET = "checkpoints"
REGION = "us-east-1"
TOKEN = "x-amz-security-token"

_SIGNED = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/(?P<scope>\d{8}/[^/]+/s3/aws4_request),"
    r" ?SignedHeaders=(?P<headers>[^,]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclass(frozen=True, kw_only=True)
class Keys:
    """What one holder signs with."""

    access_key: str
    secret_key: str
    token: str


class TokenStore(MetadataServer):
    """One whose holders may change at any time."""

    def __init__(self, *holders: Keys, address: str = "127.0.0.1") -> None:
        self.holders = {keys.access_key: keys for keys in holders}
        self.used: list[str] = []
        """The access keys of the requests that were carried out."""
        super().__init__(address)

    @property
    def settings(self) -> StoreSettings:
        return StoreSettings(bucket=BUCKET, endpoint=self.url, region=REGION)

    def answer(self, request: Request) -> Reply:
        who = verified(request, self.holders)
        if isinstance(who, Reply):
            return who
        self.used.append(who.access_key)
        if request.method == "PUT":
            return Reply()
        return Reply(body=b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")


def verified(request: Request, holders: Mapping[str, Keys]) -> Keys | Reply:
    """Return who of *holders*, by access key, has signed a request, or how it is refused."""
    found = _SIGNED.fullmatch(request.headers.get("authorization", ""))
    if found is None:
        return refusal(403, "AccessDenied")
    keys = holders.get(found["key"])
    if keys is None:
        return refusal(403, "InvalidAccessKeyId")
    names = found["headers"].split(";")
    if request.headers.get(TOKEN) != keys.token or TOKEN not in names:
        return refusal(400, "InvalidToken")
    if not hmac.compare_digest(
        _signature(request, names, found["scope"], keys.secret_key), found["signature"]
    ):
        return refusal(403, "SignatureDoesNotMatch")
    return keys


def signed_anew(request: Request, access_key: str, secret_key: str) -> dict[str, str]:
    """Return the headers of a verified request as somebody else sends it, who has no token."""
    found = _SIGNED.fullmatch(request.headers["authorization"])
    assert found is not None
    names = [name for name in found["headers"].split(";") if name != TOKEN]
    signature = _signature(request, names, found["scope"], secret_key)
    headers = {name: value for name, value in request.headers.items() if name != TOKEN}
    return {
        **headers,
        "authorization": (
            f"AWS4-HMAC-SHA256 Credential={access_key}/{found['scope']}, "
            f"SignedHeaders={';'.join(names)}, Signature={signature}"
        ),
    }


def _signature(request: Request, names: list[str], scope: str, secret: str) -> str:
    query = sorted((quote(k, safe="-._~"), quote(v, safe="-._~")) for k, v in request.query.items())
    canonical = "\n".join(
        (
            request.method,
            request.path,
            "&".join(f"{name}={value}" for name, value in query),
            *(f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in names),
            "",
            ";".join(names),
            request.headers["x-amz-content-sha256"],
        )
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(("AWS4-HMAC-SHA256", request.headers["x-amz-date"], scope, digest))
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def refusal(status: int, code: str) -> Reply:
    """Return how an S3 server says no."""
    return Reply(status=status, body=f"<Error><Code>{code}</Code></Error>".encode())
