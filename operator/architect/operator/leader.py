"""Which of the replicas works: the holder of a Lease.

A Lease is a built-in kind, so that leadership needs no CRD of a framework. As in client-go, nobody
compares clocks: a replica that does not hold the lease takes it once it has seen it unchanged, by
its own monotonic clock, for as long as it holds. The holder gives up its work if it could not renew
for two thirds of that. Two replicas at work for a moment would do no harm: every action names
the uid and version it was decided on.
"""

from __future__ import annotations

import datetime
import enum
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from architect.core.errors import Rejected, Retryable
from architect.kube.api import Api
from architect.kube.conditions import micro_timestamp
from architect.kube.errors import AlreadyExists, Conflict, NotFound
from architect.kube.resources import LEASES, ObjectRef

log = logging.getLogger(__name__)

RENEWALS: Final = 6
"""Attempts in the time a lease holds."""


class Move(enum.Enum):
    """What to do about the lease."""

    CREATE = "create"
    RENEW = "renew"
    TAKE = "take"
    WAIT = "wait"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The lease as it was when it last changed before our eyes."""

    mark: tuple[str, str]
    """Holder and time of renewal, as written: compared, never read as a time."""
    at: float
    """Monotonic seconds."""


def decide(
    lease: dict[str, Any] | None, *, identity: str, seen: Seen | None, now: float
) -> tuple[Move, Seen | None]:
    """Return what to do about *lease*, and what to remember of it."""
    if lease is None:
        return Move.CREATE, None
    spec = lease.get("spec") or {}
    holder = str(spec.get("holderIdentity") or "")
    mark = (holder, str(spec.get("renewTime") or ""))
    if seen is None or seen.mark != mark:
        seen = Seen(mark=mark, at=now)
    if holder == identity:
        return Move.RENEW, seen
    if not holder or now - seen.at >= float(spec.get("leaseDurationSeconds") or 0):
        return Move.TAKE, seen
    return Move.WAIT, seen


class Elector:
    """One replica's part in the election. Not for use from several threads at once."""

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        name: str,
        identity: str,
        lease_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._ref = ObjectRef(resource=LEASES, namespace=namespace, name=name)
        self._identity = identity
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._seen: Seen | None = None
        self._renewed_at: float | None = None
        self.contact_at: float | None = None
        """When the API server last answered, monotonic seconds."""

    @property
    def interval_seconds(self) -> float:
        """Time between two steps."""
        return self._lease_seconds / RENEWALS

    @property
    def is_leader(self) -> bool:
        """Whether we hold the lease and may still work."""
        if self._renewed_at is None:
            return False
        return self._clock() - self._renewed_at < self._lease_seconds * 2 / 3

    def step(self) -> bool:
        """Take or renew the lease if that is ours to do; return :attr:`is_leader`."""
        asked_at = self._clock()
        try:
            lease = self._read()
            self.contact_at = self._clock()
            move, self._seen = decide(lease, identity=self._identity, seen=self._seen, now=asked_at)
            if move is Move.WAIT:
                self._renewed_at = None
            else:
                self._write(move, lease)
                self._renewed_at = asked_at
        except (Conflict, AlreadyExists):
            self._renewed_at = None  # another one was faster
        except (Rejected, Retryable) as error:
            log.warning("lease %s: %s", self._ref.name, error)
        return self.is_leader

    def release(self) -> None:
        """Let the other replica take over at once, if we hold the lease."""
        if self._renewed_at is None:
            return
        self._renewed_at = None
        try:
            lease = self._read()
            if lease is None or (lease.get("spec") or {}).get("holderIdentity") != self._identity:
                return
            self._api.patch(
                self._ref,
                {"spec": {"holderIdentity": "", "leaseDurationSeconds": 1}},
                resource_version=lease["metadata"]["resourceVersion"],
            )
        except (Rejected, Retryable) as error:
            log.info("lease %s stays until it runs out: %s", self._ref.name, error)

    def _read(self) -> dict[str, Any] | None:
        try:
            return self._api.get(LEASES, self._ref.name, namespace=self._ref.namespace)
        except NotFound:
            return None

    def _write(self, move: Move, lease: dict[str, Any] | None) -> None:
        now = micro_timestamp(datetime.datetime.now(tz=datetime.UTC))
        spec: dict[str, Any] = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._lease_seconds)),
            "renewTime": now,
        }
        if move is not Move.RENEW:
            spec["acquireTime"] = now
        if lease is None:
            value = {
                "apiVersion": LEASES.api_version,
                "kind": LEASES.kind,
                "metadata": {"name": self._ref.name, "namespace": self._ref.namespace},
                "spec": spec,
            }
            self._api.create(self._ref, value)
            return
        if move is Move.TAKE:
            spec["leaseTransitions"] = (
                int((lease.get("spec") or {}).get("leaseTransitions") or 0) + 1
            )
        self._api.patch(
            self._ref, {"spec": spec}, resource_version=lease["metadata"]["resourceVersion"]
        )
