"""Replicas, one Secret, and the order in which the API server learns whom to trust."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from architect.core.errors import Retryable
from architect.pki.certificates import read_certificates
from architect.webhook import certificates
from architect.webhook.certificates import Material
from architect.webhook.rotation import Configuration, Conflict, SelfMade, Stored

NAMES = ("architect-webhook.architect.svc",)
START = datetime(2030, 1, 1, tzinfo=UTC)


class MemoryStore:
    """One Secret and two configurations, with resource versions that conflict as the API's do."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.version = 0
        self.secret: Stored | None = None
        self.configured = {
            name: Configuration(
                kind=f"{name}WebhookConfiguration",
                name="architect-webhook",
                resource_version="0",
                bundles=(b"", b"")[: 2 if name == "Mutating" else 1],
            )
            for name in ("Mutating", "Validating")
        }
        self.writes = 0
        self.before_write: Callable[[], None] | None = None
        self.after_configurations: Callable[[], None] | None = None

    def _next(self) -> str:
        self.version += 1
        self.writes += 1
        return str(self.version)

    def _interfere(self) -> None:
        interfere, self.before_write = self.before_write, None
        if interfere is not None:
            interfere()

    def read(self) -> Stored | None:
        with self.lock:
            return self.secret

    def create(self, material: Material) -> None:
        self._interfere()
        with self.lock:
            if self.secret is not None:
                raise Conflict("exists")
            self.secret = Stored(material=material, resource_version=self._next())

    def replace(self, material: Material, *, resource_version: str) -> None:
        self._interfere()
        with self.lock:
            if self.secret is None or self.secret.resource_version != resource_version:
                raise Conflict("changed")
            self.secret = Stored(material=material, resource_version=self._next())

    def configurations(self) -> Sequence[Configuration]:
        with self.lock:
            found = tuple(self.configured.values())
        interfere, self.after_configurations = self.after_configurations, None
        if interfere is not None:
            interfere()
        return found

    def trust(self, configuration: Configuration, bundle: bytes) -> None:
        with self.lock:
            name = configuration.kind.removesuffix("WebhookConfiguration")
            current = self.configured[name]
            if current.resource_version != configuration.resource_version:
                raise Conflict("changed")
            self.configured[name] = replace(
                current,
                resource_version=self._next(),
                bundles=tuple(bundle for _ in current.bundles),
            )

    def material(self) -> Material:
        assert self.secret is not None
        assert self.secret.material is not None
        return self.secret.material

    def bundles(self) -> set[bytes]:
        return {b for c in self.configured.values() for b in c.bundles}


def replica(store: MemoryStore, now: datetime = START) -> SelfMade:
    return SelfMade(store=store, dns_names=NAMES, clock=lambda: now)


def test_the_first_replica_creates_and_every_webhook_trusts_it() -> None:
    store = MemoryStore()
    pair = replica(store).fetch()
    assert pair.certificate == store.material().certificate
    assert store.bundles() == {store.material().ca_bundle}


def test_a_pass_with_nothing_to_do_writes_nothing() -> None:
    store = MemoryStore()
    replica(store).fetch()
    writes = store.writes
    replica(store).fetch()
    assert store.writes == writes


def test_of_two_replicas_that_start_together_one_creates_and_both_serve_the_same() -> None:
    store = MemoryStore()
    faster = []
    store.before_write = lambda: faster.append(replica(store).fetch())
    slower = replica(store).fetch()
    assert faster == [slower]
    assert store.bundles() == {store.material().ca_bundle}


def test_many_replicas_at_once_agree() -> None:
    store = MemoryStore()
    pairs = []
    threads = [
        threading.Thread(target=lambda: pairs.append(replica(store).fetch())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(pairs) == 8
    assert len(set(pairs)) == 1
    replica(store).fetch()
    assert store.bundles() == {store.material().ca_bundle}


def test_a_renewal_that_another_replica_was_faster_with_is_taken_over() -> None:
    store = MemoryStore()
    replica(store).fetch()
    now = START + certificates.SERVING_LIFE * 0.7
    faster = []
    store.before_write = lambda: faster.append(replica(store, now).fetch())
    assert [replica(store, now).fetch()] == faster


def test_a_replica_that_lags_behind_does_not_take_back_a_newer_bundle() -> None:
    store = MemoryStore()
    replica(store).fetch()
    now = START + certificates.CA_LIFE * 0.7
    old = store.material().ca_bundle
    store.after_configurations = lambda: (replica(store, now).fetch(), None)[1]
    replica(store, now).fetch()
    assert store.material().ca_bundle != old
    assert store.bundles() == {store.material().ca_bundle}


def test_a_bundle_that_somebody_else_wrote_is_put_right() -> None:
    store = MemoryStore()
    replica(store).fetch()
    store.configured["Mutating"] = replace(
        store.configured["Mutating"], bundles=(b"other", store.material().ca_bundle)
    )
    replica(store).fetch()
    assert store.bundles() == {store.material().ca_bundle}


def test_a_deleted_secret_is_made_anew() -> None:
    store = MemoryStore()
    first = replica(store).fetch()
    store.secret = None
    second = replica(store).fetch()
    assert first != second
    assert store.bundles() == {store.material().ca_bundle}


def test_a_secret_with_missing_keys_is_filled() -> None:
    store = MemoryStore()
    store.secret = Stored(material=None, resource_version="7")
    pair = replica(store).fetch()
    assert pair.certificate == store.material().certificate


def test_years_of_passes_never_leave_a_replica_serving_what_is_not_trusted() -> None:
    store = MemoryStore()
    now = START
    for _ in range(120):
        pair = replica(store, now).fetch()
        trusted = read_certificates(next(iter(store.bundles())))
        leaf = read_certificates(pair.certificate)[0]
        assert any(leaf.issuer == authority.subject for authority in trusted)
        assert leaf.not_valid_after_utc > now
        now += timedelta(days=10)


def test_a_secret_that_never_stops_changing_is_given_up_for_this_pass() -> None:
    class Restless(MemoryStore):
        def read(self) -> Stored | None:
            return Stored(material=None, resource_version="never this one")

    with pytest.raises(Retryable, match="still changes"):
        replica(Restless()).fetch()
