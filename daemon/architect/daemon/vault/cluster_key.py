"""For whom data keys are encrypted, and under whom checkpoints were sealed.

The operator keeps both in a ConfigMap: the public half of the cluster's key, and the certificates
of all its authorities, those that have expired too. They are read from time to time, and nobody who
needs them waits for that: what was read once goes on to be used while the API server does not
answer, so that a checkpoint reaches the store all the same. The operator keeps its former keys.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from architect.checkpoint import keys
from architect.checkpoint.keys import PublicKey
from architect.core.errors import ArchitectError, FormatError, Unavailable
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
"""Until it is read again after it could not be."""

FRESH_SECONDS: Final = 300.0
"""Until it is read again."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the operator tells all nodes."""

    public_key: PublicKey
    authorities: tuple[x509.Certificate, ...]


class ClusterKey:
    """Reads what is published. :meth:`run` belongs to one thread, the rest to any."""

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        name: str,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._known: Published | None = None
        self._wake = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Read it now, and again and again until *stop*; :meth:`poke` after setting it.

        So it is known before it is needed: when a node's end is announced there may be no API
        server to ask.
        """
        while not stop.is_set():
            self._wake.clear()
            try:
                self._known = self._read()
                wait = FRESH_SECONDS
            except (ArchitectError, OSError) as error:
                known = "is not known" if self._known is None else "is used as it was"
                log.warning("what the operator published %s: %s", known, error)
                wait = AGAIN_SECONDS
            self._wake.wait(wait)

    def poke(self) -> None:
        """Have :meth:`run` look at once."""
        self._wake.set()

    def current(self) -> Published:
        """Return it. What is known is returned at once, whatever the API server does.

        Raises Unavailable if none was ever read, FormatError, Rejected.
        """
        if (known := self._known) is not None:
            return known
        found = self._read()
        if self._known is None:
            self._known = found
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
