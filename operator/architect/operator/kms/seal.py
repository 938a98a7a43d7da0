"""What stands in the Secret beside private keys that are sealed: who can open them, and how.

Envelope encryption: a data key that the service made seals the private keys; what is kept of it is
its encrypted form, which the service alone opens. The service is told a context in both directions,
and opens nothing that was encrypted with another one. So a Secret that is copied to another
namespace or cluster does not open there, and a policy of the service can name whose keys it is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

PURPOSE: Final = "architect.dev/checkpoint-keys/1"


@dataclass(frozen=True, kw_only=True)
class Keeper:
    """What keeps the private keys from who reads the Secret."""

    provider: str = ""
    """``aws``; empty: nothing does."""

    key: str = ""
    """The service's key, as it is configured: an alias is not followed."""

    def __str__(self) -> str:
        return f"sealed by {self.provider}, key {self.key}" if self.provider else "plain"


PLAIN: Final = Keeper()


@dataclass(frozen=True, kw_only=True)
class Seal:
    """An encrypted data key, and all that is needed to have it opened."""

    keeper: Keeper
    used_key: str
    """The key that encrypted it, as the service calls it: an ARN."""
    context: Mapping[str, str]
    """What the service was told."""
    wrapped: bytes
    """The data key, encrypted."""


def context_of(*, cluster: str, namespace: str, secret: str) -> dict[str, str]:
    """Return the context of the keys in one Secret."""
    return {"purpose": PURPOSE, "cluster": cluster, "namespace": namespace, "secret": secret}


def difference(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Say where a context is not the expected one; empty: nowhere."""
    return ", ".join(
        f"{name} is {found.get(name, '')!r:.300}, and here {expected.get(name, '')!r:.300}"
        for name in sorted({*found, *expected})
        if found.get(name) != expected.get(name)
    )
