"""What an object store says no with, as errors of our own.

::

    Rejected         the store refused, and would again; ``reason`` is one of the words below
    Retryable        somebody else wrote at the same moment, or a token has just ended
    └── Unavailable  no answer, or one that says to come again (5xx, SlowDown)

How it is decided which: :mod:`architect.cloud.answers`.
"""

from __future__ import annotations

import html
import re
from typing import Final

from architect.cloud.answers import Vocabulary, bounded
from architect.core.errors import Rejected, Retryable

NO_SUCH_KEY: Final = "NoSuchKey"
EXISTS: Final = "Exists"
EMPTY: Final = "InvalidRange"
"""A range that begins with the first byte was asked for, and there is none."""
BUCKET_MISSING: Final = "BucketMissing"
ACCESS_DENIED: Final = "AccessDenied"
WRONG_CREDENTIALS: Final = "WrongCredentials"
NO_CREDENTIALS: Final = "NoCredentials"
WRONG_REGION: Final = "WrongRegion"
WRONG_CLOCK: Final = "WrongClock"
STORE_FULL: Final = "StoreFull"
UNTRUSTED: Final = "Untrusted"

MAX_BODY_BYTES: Final = 64 * 1024
"""Of an answer that is an error; a longer one is cut before it is looked at."""

_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9._-]{1,100})\s*</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]{1,2000})</Message>")

_REASONS: Final = {
    "NoSuchKey": NO_SUCH_KEY,
    "PreconditionFailed": EXISTS,
    "NoSuchBucket": BUCKET_MISSING,
    "AccessDenied": ACCESS_DENIED,
    "AllAccessDisabled": ACCESS_DENIED,
    "AccountProblem": ACCESS_DENIED,
    "InvalidAccessKeyId": WRONG_CREDENTIALS,
    "SignatureDoesNotMatch": WRONG_CREDENTIALS,
    "InvalidToken": WRONG_CREDENTIALS,
    "XAdminUserNotFound": WRONG_CREDENTIALS,
    "AuthorizationHeaderMalformed": WRONG_REGION,
    "PermanentRedirect": WRONG_REGION,
    "IllegalLocationConstraintException": WRONG_REGION,
    "RequestTimeTooSkewed": WRONG_CLOCK,
    "QuotaExceeded": STORE_FULL,
    "InsufficientStorage": STORE_FULL,
    "XMinioStorageFull": STORE_FULL,
    "XMinioAdminBucketQuotaExceeded": STORE_FULL,
}

_REASON_OF_STATUS: Final = {
    301: WRONG_REGION,
    307: WRONG_REGION,
    401: WRONG_CREDENTIALS,
    403: ACCESS_DENIED,
    412: EXISTS,
    416: EMPTY,
    507: STORE_FULL,
}
"""Where there is no code that is known: an answer to HEAD, or a proxy's own page."""

_HINTS: Final = {
    BUCKET_MISSING: "make the bucket, or correct its name",
    ACCESS_DENIED: "the credentials need the rights to read and write objects below the prefix",
    WRONG_CREDENTIALS: "the access key is unknown or its secret is another one",
    NO_CREDENTIALS: "environment, profile, web identity and the cloud's metadata had none; for a "
    "machine's role its metadata service must answer pods (AWS: a hop limit of 2)",
    WRONG_REGION: "the bucket is in another region than the one that is set",
    WRONG_CLOCK: "this machine's clock and the store's differ",
    STORE_FULL: "give the store more room, or remove checkpoints",
    UNTRUSTED: "the server's certificate is not of an authority in the CA file",
}

_LATER: Final = {
    "ConditionalRequestConflict": 1.0,
    "OperationAborted": 1.0,
    "BadDigest": 1.0,
    "ExpiredToken": 5.0,
    "ExpiredTokenException": 5.0,
}
"""Codes of what another try may settle, with its delay in seconds. Credentials are fetched anew
shortly before they end."""

SAYS: Final = Vocabulary(
    reasons=_REASONS,
    reasons_of_status=_REASON_OF_STATUS,
    hints=_HINTS,
    soon_seconds=_LATER,
    busy=frozenset({"SlowDown", "SlowDownRead", "SlowDownWrite", "RequestTimeout", "Throttling"}),
    busy_seconds=2.0,
    unreachable_hint="is the object store reachable?",
)

named, refused, unreachable = SAYS.named, SAYS.refused, SAYS.unreachable

__all__ = ["SAYS", "bounded", "named", "refused", "translate", "unreachable"]


def translate(status: int, body: bytes, *, what: str) -> Rejected | Retryable:
    """Return the error for an answer that is not a success.

    *what* says what was tried on which object (``put bucket/key``).
    """
    body = body[:MAX_BODY_BYTES]
    code, message = _CODE.search(body), _MESSAGE.search(body)
    return named(
        status,
        code[1].decode() if code else "",
        html.unescape(message[1].decode(errors="replace")) if message else "",
        what=what,
    )
