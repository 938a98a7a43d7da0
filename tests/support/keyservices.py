"""Key management services that are none: for logic, and for tests of something else."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from architect.core.errors import Rejected, Retryable
from architect.operator.kms.seal import Keeper, Seal
from architect.operator.kms.service import DataKey, KeyService, SecretAlone
from architect.operator.metrics import Metrics
from architect.operator.strongbox import Strongbox

CLUSTER = "blue"
NAMESPACE = "architect"
SECRET = "architect-checkpoint-key"


def box_of(
    service: KeyService,
    numbers: Metrics | None = None,
    *,
    cluster: str = CLUSTER,
    namespace: str = NAMESPACE,
    secret: str = SECRET,
) -> Strongbox:
    return Strongbox(
        service,
        numbers or Metrics(),
        cluster=cluster,
        namespace=namespace,
        secret=secret,
    )


def plain_box(numbers: Metrics | None = None) -> Strongbox:
    return box_of(SecretAlone(), numbers)


class MemoryService:
    """One that remembers what it made. *known* may be shared, as if two asked the same service."""

    is_there = True

    def __init__(self, key: str = "one", known: dict[bytes, bytes] | None = None) -> None:
        self.keeper = Keeper(provider="memory", key=key)
        self.known = {} if known is None else known
        self.failure: Rejected | Retryable | None = None
        self.asked: list[str] = []

    def make(self, context: Mapping[str, str]) -> DataKey:
        self._ask("make")
        plain, wrapped = secrets.token_bytes(32), secrets.token_bytes(48)
        self.known[wrapped] = plain
        seal = Seal(keeper=self.keeper, used_key="arn", context=dict(context), wrapped=wrapped)
        return DataKey(plain=plain, seal=seal)

    def open(self, seal: Seal) -> bytes:
        self._ask("open")
        return self.known[seal.wrapped]

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.failure is not None:
            raise self.failure
