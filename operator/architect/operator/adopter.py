"""Make Checkpoints of what silent nodes left in the object store, as :mod:`.adoption` decides.

A pod's replacement looks for its Checkpoint when it begins. So this comes before the pods of a
machine that is gone are given up, and is asked for again until it could be carried out.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from cryptography import x509

from architect.api import names
from architect.checkpoint import envelope
from architect.core.errors import ArchitectError, FormatError, Rejected, Retryable
from architect.kube import checkpoints
from architect.kube.api import Api
from architect.kube.errors import AlreadyExists, Conflict, NotFound
from architect.kube.events import EventType, Note
from architect.kube.notes import Tell
from architect.kube.resources import CHECKPOINTS, NODES, PODS
from architect.objectstore import errors as store_errors
from architect.objectstore.control import Fetched
from architect.operator import adoption, heartbeats, machines, metrics
from architect.operator.adoption import Adopt, Found, Refuse, Stranded
from architect.operator.metrics import Metrics
from architect.operator.stored import Place

log = logging.getLogger(__name__)

JsonObject = dict[str, Any]

FIRST_PAUSE_SECONDS: Final = 30.0
MAX_PAUSE_SECONDS: Final = 600.0
"""Between two looks of the sweep at a place where nothing lies: a node that is cut off from the API
server may still fill it. Twice as long each time, for thousands of nodes may be silent."""

MAX_REMEMBERED: Final = 8192
"""Places of which it is known what lies there."""


class Bucket(Protocol):
    """The store: see :class:`architect.objectstore.control.Control`."""

    def get(self, key: str, *, most: int, unless: str = "") -> Fetched:
        """Return an object."""


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What lay in a place at the last look."""

    mark: str
    """Of what was refused: its etag, or what there is of one; empty: nothing lay there."""
    again_at: float
    """Monotonic seconds, for the sweep."""
    pause_seconds: float


class Adopter:
    """Of one bucket. Safe to use from several threads, one of which works at a time.

    Two replicas at work for a moment do no harm: an object is made once, and each write names the
    version that was decided on.
    """

    def __init__(
        self,
        api: Api,
        numbers: Metrics,
        *,
        tell: Tell,
        open_bucket: Callable[[], Bucket],
        bucket: str,
        prefix: str,
        authorities: Callable[[], Iterable[x509.Certificate]],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._tell = tell
        self._metrics = numbers
        self._open_bucket = open_bucket
        self._bucket_name = bucket
        self._prefix = prefix
        self._authorities = authorities
        self._now = now
        self._clock = clock
        self._lock = threading.Lock()
        self._bucket: Bucket | None = None
        self._seen: dict[Place, _Seen] = {}
        self._unsettled: frozenset[Place] = frozenset()

    def is_unsettled(self, place: Place) -> bool:
        """Whether what lies there could not be looked at: nobody is to take it for an orphan."""
        return place in self._unsettled

    def sweep(self) -> None:
        """Look for what is left by all nodes that are silent, or gone."""
        with self._lock:
            try:
                nodes = self._api.list(NODES, is_cached=True).items
                leases = heartbeats.all_leases(self._api)
                pods = self._api.list(PODS, is_cached=True).items
                talking = {
                    node["metadata"]["name"]
                    for node in nodes
                    if machines.is_talking(
                        node, leases.get(node["metadata"]["name"]), now=self._now()
                    )
                }
                used = {str((pod.get("spec") or {}).get("nodeName") or "") for pod in pods}
                silent = used - talking - {""}
                self._look_at(pods, silent, is_patient=True)
            except (Rejected, Retryable) as error:
                log.warning("what silent nodes left in the object store: %s", error)

    def adopt(self, nodes: Collection[str]) -> bool:
        """Look for what *nodes* left, which are silent; False: not all of it could be looked at."""
        with self._lock:
            try:
                pods = [
                    pod
                    for node in nodes
                    for pod in self._api.list(
                        PODS, fields=f"spec.nodeName={node}", is_cached=True
                    ).items
                ]
                return self._look_at(pods, nodes, is_patient=False)
            except (Rejected, Retryable) as error:
                log.warning("what nodes %s left in the store: %s", ", ".join(sorted(nodes)), error)
                return False

    def _look_at(
        self, pods: Iterable[JsonObject], silent: Collection[str], *, is_patient: bool
    ) -> bool:
        pods = [pod for pod in pods if names.POLICY in (pod["metadata"].get("annotations") or {})]
        known = self._api.list(CHECKPOINTS).items if pods and silent else ()
        found = adoption.stranded(pods, known, silent=silent)
        if is_patient:
            there = {one.place for one in found}
            self._seen = {place: seen for place, seen in self._seen.items() if place in there}
        authorities = tuple(self._authorities()) if found else ()
        unsettled = set()
        for one in found:
            seen = self._seen.get(one.place)
            if is_patient and seen is not None and self._clock() < seen.again_at:
                continue
            try:
                self._look_at_one(one, seen, authorities)
            except ArchitectError as error:
                unsettled.add(one.place)
                log.warning("what is in the object store of %s: %s", one.ref, error)
                self._metrics.add(metrics.ADOPTIONS, result="failed")
                if isinstance(error, Retryable) and not isinstance(error, Conflict):
                    # The store or the API server is away: of no use to ask for the others now.
                    unsettled |= {other.place for other in found}
                    break
        self._unsettled = frozenset(unsettled)
        return not unsettled

    def _look_at_one(
        self, one: Stranded, seen: _Seen | None, authorities: tuple[x509.Certificate, ...]
    ) -> None:
        """Look at one place, and have it adopted or refused. Raises ArchitectError."""
        key = envelope.manifest_key(*one.place, below=self._prefix)
        try:
            fetched = self._store().get(
                key, most=envelope.MAX_BYTES, unless="" if seen is None else seen.mark
            )
        except Rejected as error:
            if error.reason != store_errors.NO_SUCH_KEY:
                raise
            self._remember(one.place, "", seen)
            return
        mark = _mark(fetched)
        if seen is not None and seen.mark == mark:
            self._remember(one.place, mark, seen)
            return
        decision = self._judge(one, key, fetched, authorities)
        if isinstance(decision, Refuse):
            self._remember(one.place, mark, seen)
            self._refuse(one, decision)
        else:
            self._adopt(one, decision)

    def _judge(
        self, one: Stranded, key: str, fetched: Fetched, authorities: tuple[x509.Certificate, ...]
    ) -> Adopt | Refuse:
        body = fetched.body
        if body is None:
            return Refuse(
                reason="TooLarge",
                message=f"{fetched.size} bytes, of which at most {envelope.MAX_BYTES} are read",
            )
        try:
            opened = envelope.from_bytes(body, authorities=authorities)
        except (FormatError, Rejected) as error:
            return Refuse(reason=getattr(error, "reason", "") or "BadManifest", message=str(error))
        found = Found(
            envelope=opened,
            bucket=self._bucket_name,
            key=key,
            sha256=hashlib.sha256(body).hexdigest(),
            stored_bytes=len(body) + sum(shard.size for shard in opened.shards),
        )
        return adoption.judge(one, found)

    def _adopt(self, one: Stranded, decision: Adopt) -> None:
        """Carry it out. Raises ArchitectError; Conflict if somebody else writes there just now."""
        value = one.checkpoint
        if value is None:
            try:
                value = self._api.create(decision.ref, decision.created)
            except AlreadyExists as error:
                # Its node has just been heard, or another replica: looked at again, as it is then.
                raise Conflict(f"{decision.ref} is there by now") from error
            except NotFound:
                log.info("%s goes with its namespace", one.ref)
                return
        try:
            checkpoints.set_status(
                self._api, value, *decision.conditions, fields=decision.fields, now=self._now()
            )
        except NotFound:
            log.info("%s was deleted meanwhile", decision.ref)
            return
        node = one.pod["spec"]["nodeName"]
        log.info("%s is made of what node %s left in the object store", decision.ref, node)
        self._metrics.add(metrics.ADOPTIONS, result="adopted")
        self._tell(
            one.ref,
            Note(
                reason=names.EVENT_ADOPTED,
                text=f"saved by node {node}, which could tell nobody: found in the object store",
                action="Adopt",
            ),
        )

    def _refuse(self, one: Stranded, refusal: Refuse) -> None:
        said = f"{refusal.reason}: {refusal.message}"
        log.warning("what lies in the object store of %s is left alone: %s", one.ref, said)
        self._metrics.add(metrics.ADOPTIONS, result=refusal.reason)
        self._tell(
            one.ref,
            Note(
                reason=names.EVENT_NOT_ADOPTED,
                text=f"what lies in the object store in its place is left alone: {said}",
                action="Adopt",
                event_type=EventType.WARNING,
                is_once=True,
            ),
        )

    def _remember(self, place: Place, mark: str, before: _Seen | None) -> None:
        pause = FIRST_PAUSE_SECONDS
        if before is not None and before.mark == mark:
            pause = min(2 * before.pause_seconds, MAX_PAUSE_SECONDS)
        self._seen.pop(place, None)
        self._seen[place] = _Seen(mark=mark, again_at=self._clock() + pause, pause_seconds=pause)
        while len(self._seen) > MAX_REMEMBERED:
            del self._seen[next(iter(self._seen))]

    def _store(self) -> Bucket:
        if self._bucket is None:
            self._bucket = self._open_bucket()
        return self._bucket


def _mark(fetched: Fetched) -> str:
    """Return what tells it from other contents, also where the store does not."""
    if fetched.etag or fetched.body is None:
        return fetched.etag or f"{fetched.size} bytes"
    return hashlib.sha256(fetched.body).hexdigest()
