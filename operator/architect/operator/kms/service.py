"""What is asked of a key management service, and to have none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from architect.operator.kms import errors
from architect.operator.kms.seal import PLAIN, Keeper, Seal


@dataclass(frozen=True, kw_only=True, repr=False)
class DataKey:
    """A new key, in both forms."""

    plain: bytes
    seal: Seal


class KeyService(Protocol):
    """One that makes data keys, and opens those that it made.

    Its methods block for a bounded time and may be called from any thread. They raise Rejected with
    a reason of :mod:`architect.operator.kms.errors`, or Unavailable.
    """

    @property
    def keeper(self) -> Keeper:
        """Who seals what is written from now on."""

    @property
    def is_there(self) -> bool:
        """Whether there is anybody who opens anything."""

    def make(self, context: Mapping[str, str]) -> DataKey | None:
        """Return a new data key; None: what is written is plain."""

    def open(self, seal: Seal) -> bytes:
        """Return the data key of *seal*, for the context in it."""


class SecretAlone:
    """No service: who may read the Secret has the keys."""

    keeper = PLAIN
    is_there = False

    def make(self, context: Mapping[str, str]) -> DataKey | None:
        """Return None."""
        return None

    def open(self, seal: Seal) -> bytes:
        """Raise Rejected: nobody can be asked."""
        raise errors.refused(f"it is {seal.keeper}, and no service is set", errors.NOT_CONFIGURED)


class OpensOnly:
    """The way back from *service*: it is asked for what was sealed, and seals nothing more."""

    keeper = PLAIN
    is_there = True

    def __init__(self, service: KeyService) -> None:
        self._service = service

    def make(self, context: Mapping[str, str]) -> DataKey | None:
        """Return None."""
        return None

    def open(self, seal: Seal) -> bytes:
        """Ask the service."""
        return self._service.open(seal)
