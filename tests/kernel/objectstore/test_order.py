"""Several checkpoints on their way to a real S3 server at once, in an order that was planned."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

from architect.checkpoint.envelope import SHARD_BYTES
from architect.daemon.checkpoint import contents
from architect.daemon.spot.learning import Measure
from architect.daemon.vault.meter import Meter
from architect.daemon.vault.store import Store
from architect.daemon.vault.streams import Streams
from architect.daemon.vault.upload import Uploaded, Uploader
from support.faultproxy import FaultProxy
from support.issuer import Issuer
from support.patience import patient
from support.s3server import Server
from support.vaults import Vaults, until

SECONDS = patient(120)
AWAY_SECONDS = 20.0
STREAMS = 3
SHARDS = 6
RATE = 8 << 20
"""Bytes a second of each connection."""
NAMES = ("one", "two", "three", "four")


class _Gated:
    """A store that takes nothing before the gate is open, and only *early* objects until it is wide
    open."""

    def __init__(self, store: Store, *, early: int = 1 << 30) -> None:
        self._store = store
        self._early = early
        self._lock = threading.Lock()
        self.gate = threading.Event()
        self.is_wide_open = threading.Event()

    def put(self, key: str, body: bytes | bytearray, **more: Any) -> None:
        assert self.gate.wait(SECONDS)
        with self._lock:
            self._early -= 1
            is_early = self._early >= 0
        assert is_early or self.is_wide_open.wait(SECONDS)
        self._store.put(key, body, **more)

    def get(self, key: str, **more: Any) -> bytes:
        return self._store.get(key, **more)


class _Noted(Streams):
    """Knows whose turns there were, in their order.

    What comes to the store tells less: whoever has its turn may wait for the processor before it
    asks, while others have several.
    """

    def __init__(self, at_once: int) -> None:
        super().__init__(at_once)
        self.turns: list[str] = []

    def _next(self) -> Any:
        row = super()._next()
        if row is not None:
            self.turns.append(row.id)
        return row


class Node:
    """A daemon that sends all of its checkpoints at once."""

    def __init__(self, directory: Path, store: Any) -> None:
        issuer = Issuer()
        self.checkpoints = {
            name: Vaults(
                directory / name,
                issuer,
                store,
                id=f"uid-{name}",
                files={
                    "app/image/pages-1.img": hashlib.shake_256(name.encode()).digest(
                        SHARDS * SHARD_BYTES - (1 << 20)
                    )
                },
            )
            for name in NAMES
        }
        first = self.checkpoints[NAMES[0]]
        for vaults in self.checkpoints.values():
            vaults.cluster_key = first.cluster_key
        self.streams = _Noted(STREAMS)
        self.uploader: Uploader = first.uploader(
            streams=self.streams, is_hurried=lambda: True, patience_seconds=SECONDS
        )

    def upload(self, name: str) -> Uploaded:
        found = self.checkpoints[name]
        return self.uploader.upload(found.source, found.manifest, notes=found.notes)


@pytest.fixture
def throttled(server: Server, proxy: FaultProxy) -> Iterator[Store]:
    with contextlib.closing(Store(server.with_endpoint(proxy.endpoint))) as made:
        yield made


def asked(proxy: FaultProxy) -> list[tuple[str, str]]:
    """Return whose objects were put, and which, in order and each once: tries are many."""
    paths = (line.split()[1].split("?")[0].split("/") for line in proxy.requests)
    return list(dict.fromkeys((path[-3], path[-1]) for path in paths if len(path) > 4))


def test_they_come_in_their_order_though_the_store_is_away_for_a_while(
    server: Server, proxy: FaultProxy, throttled: Store, tmp_path: Path
) -> None:
    early = SHARDS + 2
    store = _Gated(throttled, early=early)
    node = Node(tmp_path, store)
    order = [f"uid-{name}" for name in ("three", "one", "four", "two")]
    node.streams.prefer(order)
    with futures.ThreadPoolExecutor(len(NAMES)) as pool:
        uploads = {name: pool.submit(node.upload, name) for name in NAMES}
        until(lambda: len(node.streams._rows) == len(NAMES))
        proxy.bytes_per_second = 16 << 20
        store.gate.set()
        until(lambda: len(asked(proxy)) >= early)
        with server.away():
            store.is_wide_open.set()
            time.sleep(AWAY_SECONDS)
            assert not uploads["two"].done()
            proxy.bytes_per_second = 0
        found = {name: upload.result(SECONDS) for name, upload in uploads.items()}
    shards = node.streams.turns
    assert len(shards) == len([name for _, name in asked(proxy) if name.isdecimal()])
    assert len(shards) == len(NAMES) * SHARDS
    # What was under way before all were known, and what the last streams of each left free.
    for first, then in itertools.pairwise(order):
        last = len(shards) - 1 - shards[::-1].index(first)
        assert shards[:last].count(then) <= STREAMS
    for name, vaults in node.checkpoints.items():
        assert vaults.download(found[name]).sha256 == vaults.manifest.sha256
        contents.verify(vaults.target, vaults.manifest)


def test_another_order_holds_for_those_that_are_under_way(
    proxy: FaultProxy, throttled: Store, tmp_path: Path
) -> None:
    store = _Gated(throttled)
    node = Node(tmp_path, store)
    node.streams.prefer(["uid-one", "uid-two"])
    with futures.ThreadPoolExecutor(len(NAMES)) as pool:
        uploads = [pool.submit(node.upload, name) for name in NAMES]
        until(lambda: len(node.streams._rows) == len(NAMES))
        node.streams.prefer(["uid-four"])
        store.gate.set()
        for upload in uploads:
            upload.result(SECONDS)
    shards = node.streams.turns
    last = len(shards) - 1 - shards[::-1].index("uid-four")
    assert len(shards[:last]) - shards[:last].count("uid-four") <= 2 * STREAMS


def test_who_plans_learns_how_fast_the_way_to_the_store_was(
    proxy: FaultProxy, throttled: Store, tmp_path: Path
) -> None:
    """Of a pod whose bytes cannot be compressed: what is sent is what there is."""
    found: list[tuple[Measure, float, int]] = []
    node = Node(tmp_path, throttled)
    vaults = node.checkpoints["one"]
    meter = Meter(lambda *sample: found.append(sample))
    proxy.bytes_per_second = RATE
    vaults.upload(
        uploader=vaults.uploader(streams=Streams(STREAMS), is_hurried=lambda: True, meter=meter)
    )
    sent = [(seconds, size) for measure, seconds, size in found if measure is Measure.UPLOAD]
    assert sum(size for _, size in sent) > (SHARDS - 1) * SHARD_BYTES
    # Each stream is as slow as the proxy makes it.
    assert all(size / seconds < 1.2 * STREAMS * RATE for seconds, size in sent)
