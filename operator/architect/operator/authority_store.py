"""The Secret in which the daemons' authority is kept; written by compare-and-swap."""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from architect.core.errors import FormatError, Retryable
from architect.kube.api import Api
from architect.kube.errors import AlreadyExists, Conflict, NotFound
from architect.kube.resources import SECRETS, ObjectRef
from architect.operator import authority
from architect.operator.authority import Action, Authorities

log = logging.getLogger(__name__)

KEY: Final = "authorities.json"

MAX_STEPS: Final = 10
"""Writes and lost races in one pass, before it is given up until the next."""


class AuthorityStore:
    """Reads the authority, and renews it where that is due. Safe to use from several threads."""

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        name: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._ref = ObjectRef(resource=SECRETS, namespace=namespace, name=name)
        self._clock = clock

    def fetch(self) -> Authorities:
        """Return the authority as it is to be used now; made if there is none.

        Raises Retryable or Rejected if the Secret cannot be read or written.
        """
        for _ in range(MAX_STEPS):
            secret = self._api.find(self._ref)
            known = None if secret is None else self._read(secret)
            now = self._clock()
            action = authority.decide(known, now=now)
            if action is Action.KEEP and known is not None:
                return known
            try:
                self._write(secret, authority.carry_out(action, known, now=now))
            except (AlreadyExists, Conflict, NotFound):
                log.info("another replica was faster to %s the daemons' authority", action.value)
            else:
                log.info("daemons' authority: %s", action.value)
        raise Retryable(f"{self._ref} still changes after {MAX_STEPS} attempts")

    def _read(self, secret: dict[str, Any]) -> Authorities | None:
        try:
            return authority.from_json(
                base64.b64decode((secret.get("data") or {})[KEY], validate=True)
            )
        except (KeyError, TypeError, binascii.Error, FormatError) as error:
            said = str(error) if isinstance(error, FormatError) else f"{KEY} is missing or damaged"
            log.error("%s: %s; a new authority takes its place", self._ref, said)
            return None

    def _write(self, secret: dict[str, Any] | None, value: Authorities) -> None:
        data = {KEY: base64.b64encode(authority.to_json(value)).decode("ascii")}
        if secret is not None:
            ref = ObjectRef.of(SECRETS, secret)
            version = secret["metadata"]["resourceVersion"]
            self._api.patch(ref, {"data": data}, resource_version=version)
            return
        self._api.create(
            self._ref,
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "Opaque",
                "metadata": {
                    "name": self._ref.name,
                    "namespace": self._ref.namespace,
                    "labels": {
                        "app.kubernetes.io/name": "architect",
                        "app.kubernetes.io/component": "operator",
                    },
                },
                "data": data,
            },
        )
