"""Where the serving certificate comes from: the cluster's Secret, or files that are mounted.

Replicas of the webhook share one Secret. Whoever sees first that it must change writes it, by
compare-and-swap; everybody serves what is in it, and everybody makes the webhook configurations
trust it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from architect.core.errors import ConfigError, Retryable
from architect.webhook import certificates
from architect.webhook.certificates import Action, Material

log = logging.getLogger(__name__)

MAX_STEPS: Final = 10
"""Writes and lost races in one pass, before it is given up until the next."""


class Conflict(Retryable):
    """Somebody else wrote the object since it was read."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The Secret as it was read; ``material`` is None if keys are missing in it."""

    material: Material | None
    resource_version: str


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A webhook configuration as it was read."""

    kind: str
    name: str
    resource_version: str
    bundles: tuple[bytes, ...]
    """What each of its webhooks trusts; empty: nothing."""


class Store(Protocol):
    """The objects in the cluster. Every method may raise Retryable or ConfigError."""

    def read(self) -> Stored | None:
        """Return the Secret, None if it does not exist."""

    def create(self, material: Material) -> None:
        """Create the Secret. Raises Conflict if it exists."""

    def replace(self, material: Material, *, resource_version: str) -> None:
        """Replace the Secret. Raises Conflict unless it is at *resource_version*."""

    def configurations(self) -> Sequence[Configuration]:
        """Return our webhook configurations, those that exist."""

    def trust(self, configuration: Configuration, bundle: bytes) -> None:
        """Write *bundle*. Raises Conflict if *configuration* was changed since it was read."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A certificate (chain) and its key, as PEM."""

    certificate: bytes
    key: bytes


class Source(Protocol):
    """Where the serving certificate comes from."""

    def fetch(self) -> Pair:
        """Return the certificate to serve from now on. Blocks; raises ArchitectError."""


@dataclass(frozen=True, kw_only=True)
class SelfMade:
    """Certificates made here and kept in the cluster's Secret."""

    store: Store
    dns_names: Sequence[str]
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def fetch(self) -> Pair:
        """Renew what is due, make the API server trust it, return what is to be served."""
        # Configurations are read before the Secret: who then still sees an old Secret sees a
        # configuration older than the new one too, and its write is a conflict.
        configurations = self.store.configurations()
        material = self._renewed()
        for configuration in configurations:
            if any(bundle != material.ca_bundle for bundle in configuration.bundles):
                try:
                    self.store.trust(configuration, material.ca_bundle)
                except Conflict as error:
                    log.info("%s; left to the next pass", error)
                else:
                    log.info("%s %s trusts the bundle", configuration.kind, configuration.name)
        return Pair(certificate=material.certificate, key=material.key)

    def _renewed(self) -> Material:
        for _ in range(MAX_STEPS):
            stored = self.store.read()
            material = None if stored is None else stored.material
            now = self.clock()
            action = certificates.decide(material, now=now, dns_names=self.dns_names)
            if action is Action.KEEP and material is not None:
                return material
            renewed = certificates.carry_out(action, material, now=now, dns_names=self.dns_names)
            try:
                if stored is None:
                    self.store.create(renewed)
                else:
                    self.store.replace(renewed, resource_version=stored.resource_version)
            except Conflict:
                log.info("another replica was faster to %s", action.value)
            else:
                log.info("certificates: %s", action.value)
        raise Retryable(f"the certificates' Secret still changes after {MAX_STEPS} attempts")


@dataclass(frozen=True, kw_only=True)
class Mounted:
    """Certificates that somebody else renews, as cert-manager does, in files of a directory."""

    directory: Path

    def fetch(self) -> Pair:
        """Return what the files ``tls.crt`` and ``tls.key`` hold now."""
        try:
            return Pair(
                certificate=(self.directory / "tls.crt").read_bytes(),
                key=(self.directory / "tls.key").read_bytes(),
            )
        except OSError as error:
            raise ConfigError(
                f"cannot read {error.filename}: {error.strerror}",
                hint="--tls-dir must hold tls.crt and tls.key",
            ) from error
