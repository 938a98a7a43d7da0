"""What the operator publishes for all nodes: read, remembered, and enough for old checkpoints."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from architect.checkpoint import keys
from architect.core.errors import FormatError, Unavailable
from architect.daemon.vault.cluster_key import AGAIN_SECONDS, FRESH_SECONDS, ClusterKey
from architect.kube.api import Api
from architect.pki import certificates

PATH = "/api/v1/namespaces/architect/configmaps/key"
KEY = keys.make_key().public_key()
AUTHORITY = certificates.make_authority("a", now=datetime.now(UTC), life=timedelta(days=1))[0]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def key(api: Api, clock: Clock) -> ClusterKey:
    return ClusterKey(api, namespace="architect", name="key", clock=clock)


def publish(cluster: Any, **data: str) -> None:
    cluster.put(PATH, {"metadata": {"name": "key", "namespace": "architect"}, "data": data})


def test_it_is_read_and_remembered(cluster: Any, key: ClusterKey, clock: Clock) -> None:
    pem = certificates.to_pem(AUTHORITY).decode()
    publish(cluster, current=keys.public_to_text(KEY), authorities=pem)
    assert key.current().public_key == KEY
    assert key.current().authorities == (AUTHORITY,)
    asked = len(cluster.requests)
    key.current()
    assert len(cluster.requests) == asked
    clock.now += FRESH_SECONDS
    other = keys.make_key().public_key()
    publish(cluster, current=keys.public_to_text(other))
    assert key.current().public_key == other
    assert key.current().authorities == ()


def test_without_the_api_server_it_goes_on_as_it_was(
    cluster: Any, key: ClusterKey, clock: Clock
) -> None:
    publish(cluster, current=keys.public_to_text(KEY))
    key.current()
    clock.now += FRESH_SECONDS
    cluster.failures.append(lambda _: Unavailable("503"))
    assert key.current().public_key == KEY
    # Nobody waits for the same answer once more, until it may be another.
    asked = len(cluster.requests)
    assert key.current().public_key == KEY
    assert len(cluster.requests) == asked
    clock.now += AGAIN_SECONDS
    cluster.failures.clear()
    other = keys.make_key().public_key()
    publish(cluster, current=keys.public_to_text(other))
    assert key.current().public_key == other


def test_what_was_never_published_is_named(key: ClusterKey) -> None:
    with pytest.raises(Unavailable, match="ConfigMap architect/key is not there"):
        key.current()


@pytest.mark.parametrize(
    "data",
    [{}, {"other": "x"}, {"current": "not a key"}, {"current": keys.public_to_text(KEY)[:-8]}],
)
def test_what_is_no_key_is_refused(cluster: Any, key: ClusterKey, data: dict[str, str]) -> None:
    publish(cluster, **data)
    with pytest.raises(FormatError):
        key.current()


def test_what_is_no_certificate_is_refused(cluster: Any, key: ClusterKey) -> None:
    publish(cluster, current=keys.public_to_text(KEY), authorities="nothing")
    with pytest.raises(FormatError):
        key.current()
