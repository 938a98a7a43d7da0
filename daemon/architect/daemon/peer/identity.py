"""This daemon's certificate: asked of the operator, held in memory, renewed in time.

Each start and each renewal makes a new key and a CertificateSigningRequest; Kubernetes itself
removes requests an hour after they were answered. Without an operator a certificate serves on until
it ends; without one, nothing sleeps or wakes worse, but nobody can be asked for a checkpoint.
"""

from __future__ import annotations

import base64
import binascii
import logging
import random
import secrets
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from architect.api import names
from architect.core.errors import FormatError, Rejected, Retryable, Unavailable
from architect.daemon.peer import credentials
from architect.daemon.peer.credentials import Credentials
from architect.kube import conditions
from architect.kube.api import Api
from architect.kube.resources import SIGNING_REQUESTS, ObjectRef
from architect.kube.watch import Backoff
from architect.pki import certificates, node_identity

log = logging.getLogger(__name__)

LIFE_SECONDS: Final = 24 * 3600
"""What is asked for; the operator gives no longer life."""

ANSWER_SECONDS: Final = 60.0
"""For one request. The operator answers within a second; one that has just lost its node comes back
after its lease, 15 s, and looks at what it missed."""

POLL_SECONDS: Final = 0.5

RETRY_FIRST_SECONDS: Final = 5.0
RETRY_MAX_SECONDS: Final = 300.0

SOON_SECONDS: Final = 60.0
"""Between two renewals on suspicion: see :meth:`Identity.suspect`."""

MAX_NODE_IN_NAME: Final = 200


class Identity:
    """Holds the credentials. :meth:`run` belongs to one thread, the rest is safe from any."""

    def __init__(
        self,
        api: Api,
        *,
        node: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        answer_seconds: float = ANSWER_SECONDS,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._api = api
        self._node = node
        self._clock = clock
        self.on_change: Callable[[Credentials], None] = lambda _: None
        """Told of each new certificate, in the thread of :meth:`run`."""
        self._answer_seconds = answer_seconds
        self._poll_seconds = poll_seconds
        self._lock = threading.Lock()
        self._current: Credentials | None = None
        self._obtained_at: datetime | None = None
        self._renew_at: datetime | None = None
        self._wake = threading.Event()
        self._random = random.Random()

    def current(self) -> Credentials:
        """Return what is valid now. Raises Unavailable."""
        with self._lock:
            found = self._current
        if found is None or found.ends_at <= self._clock():
            what = "no certificate yet" if found is None else f"certificate ended {found.ends_at}"
            raise Unavailable(
                f"node {self._node} has {what}",
                hint="the operator signs them: does it run?",
            )
        return found

    def suspect(self) -> None:
        """Renew soon: the other side is not trusted, or does not trust us.

        After the authority's Secret was lost there is a new one, which the older certificates'
        holders do not know. A renewal tells them, at most one a minute.
        """
        with self._lock:
            at = self._obtained_at
            if at is None or self._clock() - at < timedelta(seconds=SOON_SECONDS):
                return
            self._renew_at = None
        self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Obtain and renew until *stop*; :meth:`poke` after setting it."""
        backoff = Backoff(first_seconds=RETRY_FIRST_SECONDS, max_seconds=RETRY_MAX_SECONDS)
        while not stop.is_set():
            self._wake.clear()
            wait = self.seconds_left()
            if wait <= 0:
                try:
                    self.obtain(stop)
                    backoff.reset()
                    continue
                except (Rejected, Retryable, FormatError) as error:
                    wait = backoff.next()
                    if not stop.is_set():
                        log.warning("certificate of node %s: %s; again in %.0f s",
                                    self._node, error, wait)  # fmt: skip
            self._wake.wait(wait)

    def poke(self) -> None:
        """Have :meth:`run` look at once."""
        self._wake.set()

    def seconds_left(self) -> float:
        """Return how long until a certificate is to be asked for."""
        with self._lock:
            if self._current is None or self._renew_at is None:
                return 0.0
            return max(0.0, (self._renew_at - self._clock()).total_seconds())

    def obtain(self, stop: threading.Event) -> Credentials:
        """Ask for a certificate and wait for it.

        Raises Rejected (reason ``Denied``) with the operator's words, Unavailable if it does not
        answer, FormatError if what it gave cannot be used, and the errors of the API.
        """
        key = certificates.make_key()
        ref = self._ask(node_identity.make_request(key, self._node))
        chain = self._await(ref, stop)
        now = self._clock()
        found = credentials.from_chain(key, chain, node=self._node, now=now)
        # Up to a tenth earlier: nodes that started together do not come back together for ever.
        early = (found.due_at - now) * self._random.uniform(0.0, 0.1)
        with self._lock:
            self._current, self._obtained_at = found, now
            self._renew_at = found.due_at - early
        log.info("certificate of node %s until %s", self._node, found.ends_at)
        self.on_change(found)
        return found

    def _ask(self, request: bytes) -> ObjectRef:
        prefix = f"architect-daemon-{self._node[:MAX_NODE_IN_NAME].rstrip('.-')}"
        ref = ObjectRef(resource=SIGNING_REQUESTS, name=f"{prefix}-{secrets.token_hex(5)}")
        value: dict[str, Any] = {
            "apiVersion": SIGNING_REQUESTS.api_version,
            "kind": SIGNING_REQUESTS.kind,
            "metadata": {
                "name": ref.name,
                "labels": {
                    "app.kubernetes.io/name": "architect",
                    "app.kubernetes.io/component": "daemon",
                },
            },
            "spec": {
                "signerName": names.DAEMON_SIGNER,
                "request": base64.b64encode(request).decode("ascii"),
                "usages": list(node_identity.REQUEST_USAGES),
                "expirationSeconds": LIFE_SECONDS,
            },
        }
        return ObjectRef.of(SIGNING_REQUESTS, self._api.create(ref, value))

    def _await(self, ref: ObjectRef, stop: threading.Event) -> bytes:
        left = self._answer_seconds
        while True:
            value = self._api.get(SIGNING_REQUESTS, ref.name)
            status = value.get("status") or {}
            if value["metadata"].get("uid") != ref.uid:
                raise Rejected(f"{ref} was replaced", reason="Denied")
            if encoded := status.get("certificate"):
                try:
                    return base64.b64decode(encoded, validate=True)
                except (binascii.Error, ValueError, TypeError) as error:
                    raise FormatError(f"{ref}: the certificate is not base64") from error
            for what in ("Denied", "Failed"):
                if refusal := conditions.find(status.get("conditions") or (), what):
                    raise Rejected(
                        f"{ref} was refused: {refusal.get('reason')}: {refusal.get('message')}",
                        reason="Denied",
                    )
            if left <= 0 or stop.wait(self._poll_seconds):
                raise Unavailable(
                    f"{ref} was not answered in {self._answer_seconds:.0f} s",
                    hint="does the operator run?",
                )
            left -= self._poll_seconds
