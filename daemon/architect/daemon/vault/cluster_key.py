"""For whom data keys are encrypted, and under whom checkpoints were sealed.

The operator keeps both in a ConfigMap: the public half of the cluster's key, and the certificates
of all its authorities, those that have expired too. What was read once goes on to be used while the
API server does not answer, so that a checkpoint reaches the store all the same: the operator keeps
its former keys.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from architect.checkpoint import keys
from architect.checkpoint.keys import PublicKey
from architect.core.errors import FormatError, Retryable, Unavailable
from architect.kube.api import Api
from architect.kube.errors import NotFound
from architect.kube.resources import CONFIG_MAPS
from architect.pki import certificates

log = logging.getLogger(__name__)

FIELD: Final = "current"
"""Of the ConfigMap's data: the key, as base64."""

AUTHORITIES: Final = "authorities"
"""Of the ConfigMap's data: certificates as PEM."""

AGAIN_SECONDS: Final = 10.0
"""Until it is asked for again after the API server did not answer."""

FRESH_SECONDS: Final = 300.0
"""How long what was read is used without a look."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the operator tells all nodes."""

    public_key: PublicKey
    authorities: tuple[x509.Certificate, ...]


class ClusterKey:
    """Reads what is published. Safe to use from several threads."""

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._known: Published | None = None
        self._read_at = float("-inf")

    def current(self) -> Published:
        """Return it. Raises Unavailable if none was ever read, FormatError, Rejected."""
        with self._lock:
            if self._known is not None and self._clock() - self._read_at < FRESH_SECONDS:
                return self._known
            try:
                self._known, self._read_at = self._read(), self._clock()
            except Retryable as error:
                if self._known is None:
                    raise
                log.warning("what the operator published is used as it was: %s", error)
                # Others who ask now are not to wait for the same answer one after the other.
                self._read_at = self._clock() - FRESH_SECONDS + AGAIN_SECONDS
            return self._known

    def _read(self) -> Published:
        where = f"ConfigMap {self._namespace}/{self._name}"
        try:
            found = self._api.get(CONFIG_MAPS, self._name, namespace=self._namespace)
        except NotFound as error:
            raise Unavailable(
                f"{where} is not there",
                hint="the operator makes it: does it run, with the same --key-config-map?",
            ) from error
        data = found.get("data") or {}
        text, pem = data.get(FIELD), data.get(AUTHORITIES) or ""
        if not isinstance(text, str):
            raise FormatError(f"{where} has no key {FIELD!r}")
        return Published(
            public_key=keys.public_from_text(text),
            authorities=tuple(certificates.read_certificates(pem.encode())) if pem else (),
        )
