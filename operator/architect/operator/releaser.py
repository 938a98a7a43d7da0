"""Give the keys of checkpoints in the object store to who claimed them.

A pod waits for each. So a claim that could not be answered, since the key management service or the
API server was away, is looked at again within seconds, and says meanwhile what it waits for.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509

from architect.core.errors import FormatError, Rejected, Retryable
from architect.kube import access, checkpoints, conditions
from architect.kube.api import Api
from architect.kube.errors import Conflict, NotFound
from architect.kube.resources import CHECKPOINTS, PERSISTENT_CHECKPOINTS, ObjectRef
from architect.operator import metrics, release, starts
from architect.operator.keyring_store import KeyringStore
from architect.operator.metrics import Metrics
from architect.operator.release import Ask, Refuse, Release

log = logging.getLogger(__name__)

JsonObject = dict[str, Any]

WAITING_SECONDS: Final = 5.0
"""Between two looks at claims that wait: a daemon waits for its key for 45 s."""

PATIENCE: Final = timedelta(seconds=90)
"""After which nobody waits for an answer to a claim any more: who still wants it asks anew, and a
sweep answers what is left."""

MAX_WAITING: Final = 1024
"""That are remembered; the others are looked at in each sweep only."""


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """A claim that has no answer yet."""

    question: str
    """Its public key: who asks again has another one."""
    since: datetime


class Releaser:
    """Carries decisions out; safe to use from several threads.

    What fails is said, and looked at again (:meth:`look_at_waiting`, :meth:`sweep`). Two replicas
    at work for a moment do no harm: every write names the version that was decided on.
    """

    def __init__(
        self,
        api: Api,
        store: KeyringStore,
        numbers: Metrics,
        *,
        authorities: Callable[[], Iterable[x509.Certificate]],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._store = store
        self._authorities = authorities
        self._metrics = numbers
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[ObjectRef, _Waiting] = {}

    def look_at_waiting(self) -> None:
        """Look at those claims again that could not be answered."""
        now = self._clock()
        with self._lock:
            over = [ref for ref, one in self._waiting.items() if now - one.since > PATIENCE]
            for ref in over:
                del self._waiting[ref]
            refs = list(self._waiting)
        for ref in refs:
            try:
                value = self._api.find(ref)
            except (Rejected, Retryable) as error:
                log.warning("%s: whether its key is still waited for is not known: %s", ref, error)
                return
            if value is None:
                self._forget(ref)
            else:
                self.look_at(value)

    def sweep(self) -> None:
        """Renew the keys if that is due, publish the current one, and look at all claims."""
        try:
            self._store.publish(self._authorities())
        except (Rejected, Retryable) as error:
            # Claims are looked at all the same: who is refused shall hear of it.
            log.error("checkpoints' keys: %s", error)
        try:
            values = self._api.list(CHECKPOINTS).items
        except (Rejected, Retryable) as error:
            log.warning("claims of checkpoints: %s", error)
            return
        for value in values:
            self.look_at(value)

    def look_at(self, value: JsonObject) -> None:
        """Decide about one Checkpoint, by a read of the claimant's pod, and carry it out."""
        who = release.claimant_of(value)
        where = ObjectRef.of(CHECKPOINTS, value)
        if who is None:
            self._forget(where)
            return
        try:
            pod = self._api.find(who)
            source = starts.source_of(value)
            persistent = None if source is None else self._api.find(source)
            decision = release.decide(value, pod=pod, persistent=persistent)
            if isinstance(decision, Ask):
                decision = release.decide(
                    value,
                    pod=pod,
                    persistent=persistent,
                    is_allowed=access.is_allowed(self._api, decision.question),
                )
            if decision is None or isinstance(decision, Ask):
                return
            result = self._do(decision, value)
            self._forget(where)
            if result == "released" and persistent is not None:
                self._note_use(persistent)
        except NotFound:
            self._forget(where)  # it was deleted meanwhile
            return
        except Conflict as error:
            log.info("%s; decided anew at its next event", error)
            return
        except (FormatError, Rejected, Retryable) as error:
            self._delay(value, error)
            result = "error"
        self._metrics.add(metrics.KEY_RELEASES, result=result)

    def _delay(self, value: JsonObject, error: FormatError | Rejected | Retryable) -> None:
        """Say why a claim has no answer yet, and remember it."""
        ref = ObjectRef.of(CHECKPOINTS, value)
        question = _question_of(value)
        with self._lock:
            known = self._waiting.get(ref)
            is_known = known is not None and known.question == question
            if not is_known and (known is not None or len(self._waiting) < MAX_WAITING):
                self._waiting[ref] = _Waiting(question=question, since=self._clock())
        # Once: it is tried again every few seconds.
        log.log(
            logging.DEBUG if is_known else logging.WARNING,
            "%s: its key is not given: %s",
            ref,
            error,
        )
        try:
            checkpoints.set_status(
                self._api, value, release.delayed(value, error), now=self._clock()
            )
        except (Rejected, Retryable) as unsaid:
            log.debug("%s: what it waits for is not said: %s", ref, unsaid)

    def _forget(self, ref: ObjectRef) -> None:
        with self._lock:
            self._waiting.pop(ref, None)

    def _note_use(self, persistent: JsonObject) -> None:
        """Write when a PersistentCheckpoint was last used, whatever others write meanwhile."""
        ref = ObjectRef.of(PERSISTENT_CHECKPOINTS, persistent)
        used = {"status": {"lastUsedAt": conditions.timestamp(self._clock())}}
        try:
            self._api.patch(ref, used, subresource="status")
        except NotFound:
            return
        except (Rejected, Retryable) as error:
            log.warning("%s: that it was used is not noted: %s", ref, error)

    def _do(self, decision: Release | Refuse, value: JsonObject) -> str:
        """Answer the claim; return the word for what became of it."""
        match decision:
            case Refuse():
                return self._refuse(decision, value)
            case Release():
                sealed = release.answer(decision, self._store.fetch())
                if isinstance(sealed, Refuse):
                    return self._refuse(sealed, value)
                now = self._clock()
                given = {
                    "publicKey": decision.public_text,
                    "sealedKey": sealed,
                    "at": conditions.timestamp(now),
                }
                checkpoints.set_status(
                    self._api, value, release.said(decision), fields={"keyRelease": given}, now=now
                )
                log.info(
                    "%s: its key was given to node %s",
                    ObjectRef.of(CHECKPOINTS, value),
                    decision.claimant.node,
                )
                return "released"

    def _refuse(self, refusal: Refuse, value: JsonObject) -> str:
        checkpoints.set_status(self._api, value, release.said(refusal), now=self._clock())
        ref = ObjectRef.of(CHECKPOINTS, value)
        log.warning("%s: its key is refused: %s: %s", ref, refusal.reason, refusal.message)
        return refusal.reason


def _question_of(value: JsonObject) -> str:
    claim = (value.get("status") or {}).get("claimedBy") or {}
    return str(claim.get("publicKey") or "")
