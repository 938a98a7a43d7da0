"""What a daemon sees of an object store that breaks: real sockets, a real server."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import pytest

from architect.core.errors import Rejected, Retryable, Unavailable
from architect.daemon.vault import store as stores
from architect.daemon.vault.store import Store
from support import s3server
from support.disks import small_disk
from support.faultproxy import FaultProxy
from support.patience import patient
from support.vaults import until

SECONDS = patient(60)
SIZE = 8 << 20
KEY = "web/1/a/000000"


@pytest.fixture
def broken(server: s3server.Server, proxy: FaultProxy) -> Iterator[Store]:
    """A store whose requests go through the proxy."""
    made = Store(server.with_endpoint(proxy.endpoint))
    yield made
    made.close()


def put(store: Store, body: bytes, *, is_new: bool = False, seconds: float = SECONDS) -> None:
    store.put(KEY, body, is_new=is_new, timeout_seconds=seconds)


def get(store: Store, *, seconds: float = SECONDS) -> bytes:
    return store.get(KEY, most_bytes=SIZE, timeout_seconds=seconds)


def test_a_server_that_is_killed_and_comes_back(server: s3server.Server, store: Store) -> None:
    body = os.urandom(SIZE)
    put(store, body)
    with server.away():
        for ask in (lambda: get(store), lambda: put(store, b"other"), store.check):
            with pytest.raises(Unavailable):
                ask()
    assert get(store) == body
    put(store, b"other")


def test_a_server_that_is_killed_in_the_middle(
    server: s3server.Server, proxy: FaultProxy, broken: Store
) -> None:
    body = os.urandom(SIZE)
    put(broken, body)
    proxy.bytes_per_second = 256 << 10  # half a minute for each: in the middle, whenever that is
    with futures.ThreadPoolExecutor(2) as pool:
        getting = pool.submit(get, broken)
        putting = pool.submit(broken.put, "web/1/b/000000", body, timeout_seconds=SECONDS)
        until(lambda: len(proxy.requests) >= 3)
        server.kill()
        proxy.bytes_per_second = 0
        for waiting in (getting, putting):
            assert isinstance(waiting.exception(), Unavailable)
    server.start()
    assert server.stored("web/1/b/000000") is None
    assert get(broken) == body


@pytest.mark.parametrize("status", [500, 503])
def test_failures_that_pass_are_not_noticed(
    server: s3server.Server, proxy: FaultProxy, broken: Store, status: int
) -> None:
    body = os.urandom(SIZE)
    proxy.failures, proxy.status = 2, status
    put(broken, body)
    assert server.stored(KEY) == body
    proxy.failures = 2
    assert get(broken) == body
    assert len(proxy.requests) == 6


@pytest.mark.parametrize("status", [500, 503])
def test_failures_that_stay_are_told(proxy: FaultProxy, broken: Store, status: int) -> None:
    proxy.failures, proxy.status = 1000, status
    for ask in (lambda: put(broken, b"x"), lambda: get(broken), broken.check):
        with pytest.raises(Unavailable):
            ask()
    assert len(proxy.requests) <= 3 * (1 + stores.RETRIES)


def test_a_full_store_has_a_name(proxy: FaultProxy, broken: Store) -> None:
    proxy.failures, proxy.status = 1, 507
    with pytest.raises(Rejected) as caught:
        put(broken, b"x")
    assert caught.value.reason == "StoreFull"


@pytest.mark.parametrize("after", [1, 200, 1000, SIZE // 2, SIZE])
def test_a_get_that_is_cut_gives_all_or_nothing(
    proxy: FaultProxy, broken: Store, after: int
) -> None:
    body = os.urandom(SIZE)
    put(broken, body)
    proxy.cut_answer_after = after
    with pytest.raises(Unavailable, match=KEY):
        get(broken)
    assert proxy.cuts > 1
    proxy.cuts, proxy.most_cuts = 0, 1
    assert get(broken) == body
    assert proxy.cuts == 1


@pytest.mark.parametrize("after", [1, SIZE // 2, SIZE - 1])
def test_a_put_that_is_cut_leaves_nothing_behind(
    server: s3server.Server, proxy: FaultProxy, broken: Store, after: int
) -> None:
    body = os.urandom(SIZE)
    proxy.cut_request_after = after
    with pytest.raises(Unavailable, match=KEY):
        put(broken, body)
    assert proxy.cuts > 1
    assert server.stored(KEY) is None
    proxy.cuts, proxy.most_cuts = 0, 1
    put(broken, body)
    assert server.stored(KEY) == body


@pytest.mark.parametrize("at", [0, SIZE // 2, SIZE - 1])
def test_a_put_that_is_damaged_on_its_way_is_refused(
    server: s3server.Server, proxy: FaultProxy, broken: Store, at: int
) -> None:
    body = os.urandom(SIZE)
    proxy.damage_request_at = at
    with pytest.raises(Retryable, match="BadDigest"):
        put(broken, body)
    assert server.stored(KEY) is None
    proxy.damage_request_at = -1
    put(broken, body)
    assert server.stored(KEY) == body


def test_a_put_whose_answer_is_lost_says_that_the_object_exists(
    proxy: FaultProxy, broken: Store
) -> None:
    proxy.cut_answer_after, proxy.most_cuts = 1, 1
    with pytest.raises(Rejected) as caught:
        put(broken, b"ours", is_new=True)
    assert caught.value.reason == "Exists"
    assert get(broken) == b"ours"


def test_a_server_that_does_not_answer_in_time(
    server: s3server.Server, proxy: FaultProxy, broken: Store
) -> None:
    put(broken, b"x")
    proxy.delay_seconds = 1000
    for ask in (lambda: get(broken, seconds=0.5), lambda: put(broken, b"y", seconds=0.5)):
        with pytest.raises(Unavailable, match="not done after"):
            ask()
    proxy.delay_seconds = 0
    assert get(broken) == b"x"


def test_a_server_that_is_too_slow(proxy: FaultProxy, broken: Store) -> None:
    put(broken, bytes(SIZE))
    proxy.bytes_per_second = 1 << 16
    for ask in (lambda: get(broken, seconds=1), lambda: put(broken, bytes(SIZE), seconds=1)):
        with pytest.raises(Unavailable, match="not done after 1 s"):
            ask()
    proxy.bytes_per_second = 0
    assert get(broken) == bytes(SIZE)


def test_who_waits_for_a_turn_waits_no_longer_than_told(proxy: FaultProxy, broken: Store) -> None:
    proxy.delay_seconds = 1000
    with futures.ThreadPoolExecutor(stores.CONCURRENCY) as pool:
        waiting = [pool.submit(get, broken) for _ in range(stores.CONCURRENCY)]
        until(lambda: len(proxy.requests) == stores.CONCURRENCY)
        with pytest.raises(Unavailable, match="other requests"):
            get(broken, seconds=0.1)
        broken.close()
        for one in waiting:
            assert "closed" in str(one.exception())


def test_closing_frees_those_who_wait_for_a_turn(proxy: FaultProxy, broken: Store) -> None:
    proxy.delay_seconds = 1000
    ended = []

    def ask() -> None:
        with pytest.raises(Unavailable, match="closed"):
            get(broken)
        ended.append(1)

    threads = [threading.Thread(target=ask) for _ in range(2 * stores.CONCURRENCY)]
    for thread in threads:
        thread.start()
    until(lambda: len(proxy.requests) == stores.CONCURRENCY)
    broken.close()
    for thread in threads:
        thread.join(SECONDS)
    assert len(ended) == len(threads)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", mebibytes=20) as path:
        yield path


def test_a_server_whose_disk_is_full(tmp_path: Path, disk: Path) -> None:
    body = os.urandom(SIZE)
    with s3server.Server(tmp_path / "s3", root=disk / "root") as server:
        store = Store(server.settings)
        store.put("kept/1", body, timeout_seconds=SECONDS)
        store.put("kept/2", body, timeout_seconds=SECONDS)
        with pytest.raises((Rejected, Retryable)) as caught:
            put(store, body)
        assert isinstance(caught.value, Rejected), caught.value
        assert caught.value.reason == "StoreFull"
        with pytest.raises(Rejected) as missing:
            get(store)
        assert missing.value.reason == "NoSuchKey"
        assert server.stored(KEY) is None
        (disk / "root" / s3server.BUCKET / "kept" / "1").unlink()
        put(store, body)
        assert get(store) == body
        assert store.get("kept/2", most_bytes=SIZE, timeout_seconds=SECONDS) == body
        store.close()
