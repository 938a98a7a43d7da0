"""A store for credentials that end: it takes session tokens, which versitygw refuses.

It verifies AWS' Signature Version 4 in the header. What is put is not kept, and no list has
anything: everything but credentials is tested against versitygw.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from urllib.parse import quote

from architect.objectstore.settings import StoreSettings
from support.cloudmetadata.server import MetadataServer, Reply, Request

BUCKET = "checkpoints"
REGION = "us-east-1"

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
        found = _SIGNED.fullmatch(request.headers.get("authorization", ""))
        if found is None:
            return _refusal(403, "AccessDenied")
        keys = self.holders.get(found["key"])
        if keys is None:
            return _refusal(403, "InvalidAccessKeyId")
        names = found["headers"].split(";")
        if request.headers.get("x-amz-security-token") != keys.token or (
            "x-amz-security-token" not in names
        ):
            return _refusal(400, "InvalidToken")
        if not hmac.compare_digest(
            _signature(request, names, found["scope"], keys.secret_key), found["signature"]
        ):
            return _refusal(403, "SignatureDoesNotMatch")
        self.used.append(keys.access_key)
        if request.method == "PUT":
            return Reply()
        return Reply(body=b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")


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


def _refusal(status: int, code: str) -> Reply:
    return Reply(status=status, body=f"<Error><Code>{code}</Code></Error>".encode())
