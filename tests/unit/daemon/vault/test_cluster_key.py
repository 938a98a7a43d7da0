"""What the operator publishes for all nodes: read, remembered, and enough for old checkpoints."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from architect.checkpoint import keys
from architect.core.errors import FormatError, Rejected, Unavailable
from architect.daemon.vault import cluster_key
from architect.daemon.vault.cluster_key import ClusterKey
from architect.kube.api import Api
from architect.pki import certificates
from support.patience import patient

SECONDS = patient(60)
PATH = "/api/v1/namespaces/architect/configmaps/key"
KEY = keys.make_key().public_key()
AUTHORITY = certificates.make_authority("a", now=datetime.now(UTC), life=timedelta(days=1))[0]


@pytest.fixture
def key(api: Api) -> ClusterKey:
    return ClusterKey(api, namespace="architect", name="key")


@contextlib.contextmanager
def running(key: ClusterKey) -> Iterator[None]:
    """Have it read from time to time, as the daemon does."""
    stop = threading.Event()
    thread = threading.Thread(target=key.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        key.poke()
        thread.join(SECONDS)
        assert not thread.is_alive()


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def always(failure: Exception) -> Callable[[object], Exception]:
    return lambda _: failure


def asked_twice(cluster: Any) -> None:
    """Wait until it was read, with what is true by now."""
    asked = len(cluster.requests)
    until(lambda: len(cluster.requests) > asked + 1)


def publish(cluster: Any, **data: str) -> None:
    cluster.put(PATH, {"metadata": {"name": "key", "namespace": "architect"}, "data": data})


def test_it_is_read_and_remembered(cluster: Any, key: ClusterKey) -> None:
    pem = certificates.to_pem(AUTHORITY).decode()
    publish(cluster, current=keys.public_to_text(KEY), authorities=pem)
    assert key.current().public_key == KEY
    assert key.current().authorities == (AUTHORITY,)
    asked = len(cluster.requests)
    key.current()
    assert len(cluster.requests) == asked


def test_it_is_known_before_anybody_asks(cluster: Any, key: ClusterKey) -> None:
    publish(cluster, current=keys.public_to_text(KEY))
    with running(key):
        until(lambda: key._known is not None)
        cluster.failures.append(lambda _: Unavailable("503"))
        assert key.current().public_key == KEY


def test_another_one_is_heard_of(
    cluster: Any, key: ClusterKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_key, "FRESH_SECONDS", 0.01)
    publish(cluster, current=keys.public_to_text(KEY))
    other = keys.make_key().public_key()
    with running(key):
        until(lambda: key.current().public_key == KEY)
        publish(cluster, current=keys.public_to_text(other))
        until(lambda: key.current().public_key == other)


def test_what_cannot_be_read_leaves_it_as_it_was(
    cluster: Any, key: ClusterKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_key, "FRESH_SECONDS", 0.01)
    monkeypatch.setattr(cluster_key, "AGAIN_SECONDS", 0.01)
    publish(cluster, current=keys.public_to_text(KEY))
    other = keys.make_key().public_key()
    with running(key):
        until(lambda: key._known is not None)
        for failure in (Unavailable("503"), Rejected("forbidden", reason="Forbidden"), OSError()):
            cluster.failures.append(always(failure))
            asked_twice(cluster)
            assert key.current().public_key == KEY
            cluster.failures.clear()
        publish(cluster, current="not a key")
        asked_twice(cluster)
        assert key.current().public_key == KEY
        publish(cluster, current=keys.public_to_text(other))
        until(lambda: key.current().public_key == other)


def test_nobody_waits_for_an_api_server_that_hangs_once_it_is_known(
    cluster: Any, key: ClusterKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_key, "FRESH_SECONDS", 0.01)
    publish(cluster, current=keys.public_to_text(KEY))
    hangs, asked = threading.Event(), threading.Event()

    def hang(_: Any) -> None:
        asked.set()
        assert hangs.wait(SECONDS)

    with running(key):
        until(lambda: key._known is not None)
        cluster.failures.append(hang)
        assert asked.wait(SECONDS)
        # The answer is not there yet, and none of these would return before it.
        assert [key.current().public_key for _ in range(10)] == [KEY] * 10
        hangs.set()


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
