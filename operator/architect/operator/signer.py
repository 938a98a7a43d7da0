"""Approve, deny and sign the daemons' CertificateSigningRequests."""

from __future__ import annotations

import base64
import collections
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from architect.api import names
from architect.core.errors import Rejected, Retryable
from architect.kube import conditions
from architect.kube.api import Api
from architect.kube.conditions import Condition, Status
from architect.kube.errors import Conflict, NotFound
from architect.kube.resources import SIGNING_REQUESTS, ObjectRef
from architect.operator import authority, metrics, signing_requests
from architect.operator.authority_store import AuthorityStore
from architect.operator.metrics import Metrics
from architect.operator.signing_requests import Approve, Deny, Fail, Grant, Refusal, Sign

log = logging.getLogger(__name__)

JsonObject = dict[str, Any]

MAX_REMEMBERED: Final = 4096
"""Requests that we signed: their events arrive within seconds."""

SELECTOR: Final = f"spec.signerName={names.DAEMON_SIGNER}"


class Signer:
    """Carries decisions out; safe to use from several threads.

    What fails is said and left to the next sweep. Two replicas at work for a moment do no harm:
    every write names the version that was decided on.
    """

    def __init__(
        self,
        api: Api,
        store: AuthorityStore,
        numbers: Metrics,
        *,
        account: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._store = store
        self._metrics = numbers
        self._account = account
        self._clock = clock
        self._signed: collections.OrderedDict[str, None] = collections.OrderedDict()

    def sweep(self) -> None:
        """Look at all requests to our signer, and renew the authority if that is due."""
        try:
            self._store.fetch()
            values = self._api.list(SIGNING_REQUESTS, fields=SELECTOR).items
        except (Rejected, Retryable) as error:
            log.warning("daemons' certificates: %s", error)
            return
        for value in values:
            self.look_at(value)

    def look_at(self, value: JsonObject) -> None:
        """Decide about one request and carry it out."""
        step = signing_requests.decide(value, account=self._account)
        if step is None:
            return
        name, uid = value["metadata"]["name"], value["metadata"].get("uid", "")
        if uid in self._signed:
            return  # the event of our own approval, from before our signature
        try:
            result = self._do(step, value)
        except NotFound:
            return  # it was deleted meanwhile
        except Conflict as error:
            log.info("%s; decided anew at its next event", error)
            return
        except (Rejected, Retryable) as error:
            log.warning("certificate request %s: %s", name, error)
            result = "error"
        self._metrics.add(metrics.CERTIFICATES, result=result)

    def _do(self, step: signing_requests.Step, value: JsonObject) -> str:
        match step:
            case Approve(grant=grant):
                # A key that cannot be had approves nothing.
                authorities = self._store.fetch()
                approved = self._say(
                    value,
                    signing_requests.APPROVED,
                    reason="DaemonOfNode",
                    message=f"the requestor is the daemon of node {grant.node}",
                    subresource="approval",
                )
                return self._sign(approved, grant, authorities)
            case Sign(grant=grant):
                return self._sign(value, grant, self._store.fetch())
            case Deny(refusal=refusal):
                return self._refuse(value, refusal, signing_requests.DENIED, "approval")
            case Fail(refusal=refusal):
                return self._refuse(value, refusal, signing_requests.FAILED, "status")

    def _sign(self, value: JsonObject, grant: Grant, authorities: authority.Authorities) -> str:
        chain = authority.issue(
            authorities, grant.public_key, node=grant.node, now=self._clock(), life=grant.life
        )
        self._api.patch(
            ObjectRef.of(SIGNING_REQUESTS, value),
            {"status": {"certificate": base64.b64encode(chain).decode("ascii")}},
            subresource="status",
            resource_version=value["metadata"]["resourceVersion"],
        )
        self._signed[value["metadata"]["uid"]] = None
        while len(self._signed) > MAX_REMEMBERED:
            self._signed.popitem(last=False)
        log.info("issued a certificate to the daemon of node %s", grant.node)
        return "issued"

    def _refuse(self, value: JsonObject, refusal: Refusal, what: str, subresource: str) -> str:
        name, who = value["metadata"]["name"], (value.get("spec") or {}).get("username")
        self._say(
            value, what, reason=refusal.reason, message=refusal.message, subresource=subresource
        )
        log.warning("refused request %s of %s: %s", name, who, refusal.message)
        return refusal.reason

    def _say(
        self, value: JsonObject, what: str, *, reason: str, message: str, subresource: str
    ) -> JsonObject:
        condition = Condition(type=what, status=Status.TRUE, reason=reason, message=message)
        new = {
            "type": condition.type,
            "status": condition.status.value,
            "reason": condition.reason,
            "message": condition.bounded_message,
        }
        existing = (value.get("status") or {}).get("conditions") or ()
        return self._api.patch(
            ObjectRef.of(SIGNING_REQUESTS, value),
            {"status": {"conditions": conditions.replace(existing, new)}},
            subresource=subresource,
            resource_version=value["metadata"]["resourceVersion"],
        )
