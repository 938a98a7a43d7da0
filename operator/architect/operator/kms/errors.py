"""What a key management service says no with, as errors of our own.

::

    Rejected         it refused, and would again until somebody does something; ``reason`` is a word
                     of these
    Unavailable      no answer, one that is none, or one that says to come again

Codes are those of AWS KMS, and of STS, where a role's credentials come from. A text says what was
tried and a bounded part of what the service said, which has no key in it.
"""

from __future__ import annotations

import re
from typing import Final

from architect.core.errors import Rejected, Unavailable
from architect.objectstore.errors import bounded

NOT_CONFIGURED: Final = "KmsNotConfigured"
OTHER_PROVIDER: Final = "KmsOtherProvider"
ACCESS_DENIED: Final = "KmsAccessDenied"
WRONG_CREDENTIALS: Final = "KmsWrongCredentials"
NO_CREDENTIALS: Final = "KmsNoCredentials"
UNTRUSTED: Final = "KmsUntrusted"
KEY_DISABLED: Final = "KmsKeyDisabled"
KEY_PENDING_DELETION: Final = "KmsKeyPendingDeletion"
KEY_UNUSABLE: Final = "KmsKeyUnusable"
KEY_MISSING: Final = "KmsKeyMissing"
WRONG_KEY: Final = "KmsWrongKey"
WRONG_KIND: Final = "KmsWrongKindOfKey"
WRONG_CONTEXT: Final = "KmsWrongContext"
DAMAGED: Final = "KmsDamaged"
NOT_REVERSIBLE: Final = "KmsNotReversible"
"""What it encrypts it does not open: nothing is sealed so."""

RETRY_SECONDS: Final = 30.0
"""Nobody waits for the service but claims, and these come again with each sweep."""

_REASONS: Final = {
    "AccessDenied": ACCESS_DENIED,
    "AccessDeniedException": ACCESS_DENIED,
    "NotAuthorizedException": ACCESS_DENIED,
    "UnrecognizedClientException": WRONG_CREDENTIALS,
    "InvalidIdentityToken": WRONG_CREDENTIALS,
    "InvalidClientTokenId": WRONG_CREDENTIALS,
    "InvalidSignatureException": WRONG_CREDENTIALS,
    "IncompleteSignatureException": WRONG_CREDENTIALS,
    "MissingAuthenticationTokenException": WRONG_CREDENTIALS,
    "DisabledException": KEY_DISABLED,
    "KMSInvalidStateException": KEY_UNUSABLE,
    "NotFoundException": KEY_MISSING,
    "InvalidArnException": KEY_MISSING,
    "IncorrectKeyException": WRONG_KEY,
    "InvalidKeyUsageException": WRONG_KIND,
    "InvalidCiphertextException": DAMAGED,
}

_HINTS: Final = {
    NOT_CONFIGURED: "set objectStore.kms as it was; with unseal, the Secret becomes plain again",
    OTHER_PROVIDER: "set objectStore.kms.provider as it was, or run the version that sealed it",
    ACCESS_DENIED: "the operator needs kms:GenerateDataKey and kms:Decrypt, by its policy and by "
    "the key's, for this encryption context",
    WRONG_CREDENTIALS: "the access key is unknown or its secret is another one",
    NO_CREDENTIALS: "credentials file, environment, web identity and the cloud's metadata had none",
    UNTRUSTED: "the server's certificate is not of an authority in the CA file",
    KEY_DISABLED: "enable the key",
    KEY_PENDING_DELETION: "cancel the deletion and enable the key, before its date: afterwards "
    "nothing opens what it sealed",
    KEY_UNUSABLE: "see the key's state",
    KEY_MISSING: "is it the right region and account? A key that was deleted never comes back",
    WRONG_KEY: "the Secret names another key than the one that encrypted",
    WRONG_KIND: "a symmetric key for encryption is needed",
    WRONG_CONTEXT: "the Secret is another one's; it opens where cluster, namespace and name are as "
    "they were",
    DAMAGED: "restore the Secret from a backup",
    NOT_REVERSIBLE: "the service gave a data key and opened its encrypted form to something else",
}

_LATER: Final = {
    "DependencyTimeoutException",
    "ExpiredTokenException",
    "InternalFailure",
    "KMSInternalException",
    "KeyUnavailableException",
    "LimitExceededException",
    "RequestExpired",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "Throttling",
    "ThrottlingException",
}
"""Codes of what another try may settle; some of them come with status 400."""


def named(status: int, code: str, message: str, *, what: str) -> Rejected | Unavailable:
    """Return the error for an answer that is not a success.

    *what* says what was tried (``open a data key with …``).
    """
    said = " ".join(filter(None, (str(status or ""), bounded(code))))
    text = f"cannot {what}: {said}" + (f": {bounded(message)}" if message else "")
    if code in _LATER or status == 429 or status >= 500:
        return Unavailable(text, delay_seconds=RETRY_SECONDS)
    reason = _REASONS.get(code)
    if reason == KEY_UNUSABLE and "pending deletion" in message.lower():
        reason = KEY_PENDING_DELETION
    return refused(text, reason or _word(code) or f"KmsStatus{status}")


def refused(text: str, reason: str) -> Rejected:
    """Return the error of that reason, with the hint that belongs to it."""
    return Rejected(text, reason=reason, hint=_HINTS.get(reason, ""))


def unreachable(said: str, *, what: str) -> Unavailable:
    """Return the error for a request without an answer, or with one that is none."""
    return Unavailable(
        f"cannot {what}: {bounded(said)}",
        delay_seconds=RETRY_SECONDS,
        hint="is the key management service reachable?",
    )


def _word(code: str) -> str:
    """Return a code that nobody foresaw as a reason, if it can be one."""
    return f"Kms{code}" if re.fullmatch(r"[A-Z][A-Za-z0-9]{2,60}", code) else ""
