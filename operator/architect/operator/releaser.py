"""Give the keys of checkpoints in the object store to who claimed them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

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


class Releaser:
    """Carries decisions out; safe to use from several threads.

    What fails is said and left to the next sweep. Two replicas at work for a moment do no harm:
    every write names the version that was decided on.
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
        if who is None:
            return
        where = ObjectRef.of(CHECKPOINTS, value)
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
            if result == "released" and persistent is not None:
                self._note_use(persistent)
        except NotFound:
            return  # it was deleted meanwhile
        except Conflict as error:
            log.info("%s; decided anew at its next event", error)
            return
        except (FormatError, Rejected, Retryable) as error:
            log.warning("%s: its key is not given: %s", where, error)
            result = "error"
        self._metrics.add(metrics.KEY_RELEASES, result=result)

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
