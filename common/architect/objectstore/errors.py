"""What an object store says no with, as errors of our own.

::

    Rejected         the store refused, and would again; ``reason`` is one of the words below
    Retryable        somebody else wrote at the same moment, or a token has just ended
    └── Unavailable  no answer, or one that says to come again (5xx, SlowDown)

A text says what was tried on which object, and a bounded part of what the server said. Stores of
many makers are spoken to: the code in the body counts before the status.
"""

from __future__ import annotations

import html
import re
from typing import Final

from architect.core.errors import ArchitectError, Rejected, Retryable, Unavailable

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

MAX_MESSAGE_CHARS: Final = 500
"""Of what the server says."""

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
    NO_CREDENTIALS: "environment, profile, web identity and the cloud's metadata had none",
    WRONG_REGION: "the bucket is in another region than the one that is set",
    WRONG_CLOCK: "this machine's clock and the store's differ",
    STORE_FULL: "give the store more room, or remove checkpoints",
    UNTRUSTED: "the server's certificate is not of an authority in the CA file",
}

_LATER: Final = {
    "ConditionalRequestConflict": 1.0,
    "OperationAborted": 1.0,
    "ExpiredToken": 5.0,
    "ExpiredTokenException": 5.0,
}
"""Codes of what another try may settle, with its delay in seconds. Credentials are fetched anew
shortly before they end."""

_BUSY: Final = ("SlowDown", "SlowDownRead", "SlowDownWrite", "RequestTimeout", "Throttling")
_BUSY_DELAY_SECONDS: Final = 2.0


def translate(status: int, body: bytes, *, what: str) -> ArchitectError:
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


def named(status: int, code: str, message: str, *, what: str) -> ArchitectError:
    """Return the error for an answer whose code and message were read already."""
    said = " ".join(filter(None, (str(status or ""), bounded(code))))
    text = f"cannot {what}: {said}" + (f": {bounded(message)}" if message else "")
    if code in _LATER:
        return Retryable(text, delay_seconds=_LATER[code])
    reason = _REASONS.get(code)
    if reason is None and (code in _BUSY or status in (408, 429) or 500 <= status != 507):
        return Unavailable(text, delay_seconds=_BUSY_DELAY_SECONDS)
    if reason is None:
        reason = _REASON_OF_STATUS.get(status) or _word(code) or f"Status{status}"
    return refused(text, reason)


def refused(text: str, reason: str) -> Rejected:
    """Return the error of that reason, with the hint that belongs to it."""
    return Rejected(text, reason=reason, hint=_HINTS.get(reason, ""))


def unreachable(said: str, *, what: str) -> Unavailable:
    """Return the error for a request without an answer."""
    return Unavailable(
        f"cannot {what}: {bounded(said)}",
        delay_seconds=_BUSY_DELAY_SECONDS,
        hint="is the object store reachable?",
    )


def bounded(text: str) -> str:
    """Return *text* as one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_MESSAGE_CHARS else line[: MAX_MESSAGE_CHARS - 1] + "…"


def _word(code: str) -> str:
    """Return a code that nobody foresaw as a reason, if it can be one."""
    return code if re.fullmatch(r"[A-Z][A-Za-z0-9]{2,60}", code) else ""
