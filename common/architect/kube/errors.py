"""What the API server says no with, as errors of our own.

::

    Rejected                 the server refused, and would again
    ├── NotFound             the object, or the object of that uid, is gone
    ├── AlreadyExists
    └── Forbidden            our ServiceAccount may not
    Retryable                the server is busy (429, 5xx)
    ├── Conflict             somebody else wrote first: read again, decide again
    ├── Expired              a watch's resourceVersion is too old: list again
    └── Unavailable          no answer

A text never holds more of a body than a ``Status``'s message, bounded, and of a Secret not even
that: a validation message may quote the value it complains about.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from architect.core.errors import ArchitectError, Rejected, Retryable, Unavailable

MAX_MESSAGE_CHARS: Final = 500
"""Enough for every message of the API server that we met; a wall of text helps nobody."""

_UID_PRECONDITION = re.compile(r"UID in (the )?precondition")

MAX_DELAY_SECONDS: Final = 60.0
"""No Retry-After is believed beyond this."""


class NotFound(Rejected):
    """The object is gone, or its name now belongs to an object with another uid."""


class AlreadyExists(Rejected):
    """An object of that name is there."""


class Forbidden(Rejected):
    """RBAC, an admission policy or a quota says no."""


class Conflict(Retryable):
    """The object changed since it was read."""


class Expired(Retryable):
    """The resourceVersion is no longer kept."""


def translate(status: int, body: bytes, *, what: str, is_secret: bool = False) -> ArchitectError:
    """Return the error for a response that is not a success.

    *what* says what was tried on which object (``patch pods default/web``). 401 is retryable: a
    projected token is replaced on disk shortly before it ends, and read again within a minute.
    """
    answer = _status_of(body)
    reason = str(answer.get("reason") or "")
    said = f"{status} {reason}".strip()
    if message := str(answer.get("message") or ""):
        said += "" if is_secret else f": {_bounded(message)}"
    text = f"cannot {what}: {said}"
    details = answer.get("details")
    delay = _delay(details.get("retryAfterSeconds") if isinstance(details, dict) else None)
    if status == 404:
        return NotFound(text, reason="NotFound")
    if _is_about_uid(status, message):
        return NotFound(text, reason="Replaced", hint="an object of that name has another uid")
    if status == 409 and reason == "AlreadyExists":
        return AlreadyExists(text, reason="AlreadyExists")
    if status == 409:
        return Conflict(text, delay_seconds=0.1)
    if status == 410:
        return Expired(text, delay_seconds=0.0)
    if status == 403:
        return Forbidden(text, reason="Forbidden", hint="see the ServiceAccount's ClusterRole")
    if status == 401:
        return Retryable(text, delay_seconds=5.0, hint="the ServiceAccount's token is not accepted")
    if status == 429 or status >= 500:
        return Retryable(text, delay_seconds=delay)
    return Rejected(text, reason=reason or f"Status{status}")


def unreachable(error: Exception, *, what: str) -> Unavailable:
    """Return the error for a request without a response."""
    said = _bounded(str(error)) or type(error).__name__
    return Unavailable(f"cannot {what}: {said}", hint="is the API server reachable?")


def _status_of(body: bytes) -> dict[str, Any]:
    """Return the body if it is a ``Status`` (a proxy's error page is not), else nothing."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) and value.get("kind") == "Status" else {}


def _is_about_uid(status: int, message: str) -> bool:
    """Whether a precondition on the uid failed.

    A delete says 409 "the UID in the precondition (…) does not match" or "Precondition failed: UID
    in precondition: …", by kind; a patch that carries another uid says 422 "metadata.uid: Invalid
    value: …: field is immutable" (Kubernetes 1.36).
    """
    return (status == 409 and _UID_PRECONDITION.search(message) is not None) or (
        status == 422 and "metadata.uid" in message
    )


def _delay(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        return 1.0
    return min(float(value), MAX_DELAY_SECONDS)


def _bounded(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_MESSAGE_CHARS else line[: MAX_MESSAGE_CHARS - 1] + "…"
