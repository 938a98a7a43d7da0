"""What a key management service says no with, as errors of our own.

::

    Rejected         it refused, and would again until somebody does something; ``reason`` is a word
                     of these
    Unavailable      no answer, one that is none, or one that says to come again

Codes are those of AWS KMS, and of STS, where a role's credentials come from. How it is decided
which error it is: :mod:`architect.cloud.answers`.
"""

from __future__ import annotations

from typing import Final

from architect.cloud.answers import Vocabulary
from architect.core.errors import Rejected, Retryable

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

RETRY_SECONDS: Final = 10.0
"""From a failure to the next question. A claim waits for 45 s at most, and is to have its key if
the service comes back within that."""

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


class _KmsVocabulary(Vocabulary):
    def named(self, status: int, code: str, message: str, *, what: str) -> Rejected | Retryable:
        """Tell the states of a key apart that nobody can use now, which have one code."""
        error = super().named(status, code, message, what=what)
        is_unusable = isinstance(error, Rejected) and error.reason == KEY_UNUSABLE
        if is_unusable and "pending deletion" in message.lower():
            return self.refused(error.message, KEY_PENDING_DELETION)
        return error


SAYS: Final = _KmsVocabulary(
    reasons=_REASONS,
    hints=_HINTS,
    busy=frozenset(
        {
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
    ),
    busy_seconds=RETRY_SECONDS,
    unreachable_hint="is the key management service reachable?",
    prefix="Kms",
)

named, refused, unreachable = SAYS.named, SAYS.refused, SAYS.unreachable
