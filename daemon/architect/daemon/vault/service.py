"""The daemon's side of the object store: what is configured, put together."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from architect.checkpoint import envelope
from architect.checkpoint.envelope import Envelope
from architect.checkpoint.manifest import Manifest
from architect.core.errors import ArchitectError
from architect.daemon.heap import Heap
from architect.daemon.metrics import Metrics
from architect.daemon.peer.credentials import Credentials
from architect.daemon.peer.identity import Identity
from architect.daemon.settings import DaemonSettings
from architect.daemon.spot import width
from architect.daemon.spot.inputs import Rates
from architect.daemon.spot.rates import Known
from architect.daemon.vault.cluster_key import ClusterKey
from architect.daemon.vault.download import Downloaded, Downloader
from architect.daemon.vault.meter import Meter
from architect.daemon.vault.streams import Streams
from architect.daemon.vault.transfer import Bucket
from architect.daemon.vault.upload import Recipient, Uploaded, Uploader
from architect.kube.api import Api
from architect.pki import certificates

DOWNLOAD_SECONDS: Final = 600.0
"""For a whole checkpoint, unless who gets it says otherwise."""

FASTEST: Final = Rates(upload_bytes_per_second=math.inf)
"""A link on which there would be most streams."""


def open_vault(
    config: DaemonSettings, *, api: Api, identity: Identity, metrics: Metrics, known: Known
) -> Vault | None:
    """Return the vault that is configured; None: there is none. It learns and asks *known*."""
    settings = config.store
    if settings is None:
        return None
    heap = Heap()
    heap.prepare()
    key = ClusterKey(api, namespace=config.namespace, name=config.key_config_map)

    def open_store(requests: Callable[[], int]) -> Bucket:
        # 20 MiB of memory, which a daemon that is told to check or uninstall does without.
        from architect.daemon.vault.store import Store

        return Store(settings, requests=requests, most_requests=1 + at_notice(FASTEST))

    def at_notice(rates: Rates) -> int:
        return config.spot_upload_streams or width.objects(
            rates, cores=os.cpu_count() or 1, memory_bytes=config.memory_limit_bytes
        )

    return Vault(
        bucket=settings.bucket,
        prefix=settings.prefix,
        open_store=open_store,
        cluster_key=key,
        credentials=identity.current,
        metrics=metrics,
        heap=heap,
        floor_bytes=config.free_floor_bytes,
        known=known,
        streams=config.store_upload_streams,
        at_notice=at_notice,
    )


class Vault:
    """One bucket. Safe to use from several threads; nothing is opened before it is used."""

    def __init__(
        self,
        *,
        bucket: str,
        prefix: str,
        open_store: Callable[[Callable[[], int]], Bucket],
        cluster_key: ClusterKey,
        credentials: Callable[[], Credentials],
        metrics: Metrics,
        heap: Heap,
        floor_bytes: int,
        known: Known,
        streams: int,
        at_notice: Callable[[Rates], int],
    ) -> None:
        """Prepare; *at_notice* tells how many *streams* there are while the node's end is near."""
        self.bucket = bucket
        self._prefix = prefix
        self._open_store = open_store
        self._cluster_key = cluster_key
        self._credentials = credentials
        self._metrics = metrics
        self._heap = heap
        self._floor_bytes = floor_bytes
        self._known = known
        self._usual_streams = streams
        self._at_notice = at_notice
        self._streams = Streams(streams)
        self._is_hurried = False
        self._opening = threading.Lock()
        self._made: tuple[Uploader, Downloader] | None = None

    def run(self, stop: threading.Event) -> None:
        """Keep the cluster's key known until *stop*; :meth:`poke` after setting it."""
        self._cluster_key.run(stop)

    def poke(self) -> None:
        """Have :meth:`run` look at once."""
        self._cluster_key.poke()

    def prefer(self, order: Sequence[str]) -> None:
        """Send checkpoints in this order of their ids: see :meth:`Streams.prefer`."""
        self._streams.prefer(order)

    def hurry(self, *, is_needed: bool) -> None:
        """Send as if the node were about to end, or not any more."""
        self._is_hurried = is_needed
        if is_needed:  # once more, perhaps: what the link was seen to carry meanwhile stays
            self._streams.widen(max(self._streams.at_once, self.objects_at_notice()))
        else:
            self._streams.widen(self._usual_streams)

    def objects_at_notice(self) -> int:
        """Return how many objects would be sent at once if the node's end were announced now."""
        return max(self._usual_streams, self._at_notice(self._known.rates()))

    def _widen(self, bytes_per_second: float) -> None:
        """Have more streams at a notice if the link was seen to be faster than was believed."""
        rates = self._known.rates()
        if self._is_hurried and bytes_per_second > rates.upload_bytes_per_second:
            seen = dataclasses.replace(rates, upload_bytes_per_second=bytes_per_second)
            self._streams.widen(max(self._streams.at_once, self._at_notice(seen)))

    def upload(
        self,
        directory: Path,
        manifest: Manifest,
        *,
        notes: Path,
        is_wanted: Callable[[], bool],
    ) -> Uploaded:
        """Send a checkpoint: see :meth:`Uploader.upload`."""
        uploader, _ = self._parts()
        with self._heap.busy():
            return uploader.upload(directory, manifest, notes=notes, is_wanted=is_wanted)

    def describe(self, key: str, *, sha256: str) -> Envelope:
        """Return what lies at *key*: see :meth:`Downloader.describe`."""
        _, downloader = self._parts()
        return downloader.describe(key, sha256=sha256)

    def download(
        self,
        described: Envelope,
        data_key: bytes,
        target: Path,
        *,
        is_durable: bool = True,
        timeout_seconds: float = DOWNLOAD_SECONDS,
    ) -> Downloaded:
        """Get a checkpoint: see :meth:`Downloader.download`."""
        _, downloader = self._parts()
        with self._heap.busy():
            return downloader.download(
                described,
                data_key,
                target,
                floor_bytes=self._floor_bytes,
                is_durable=is_durable,
                timeout_seconds=timeout_seconds,
            )

    def _requests(self) -> int:
        """Return how many requests may be in flight: nobody's few bytes wait for all shards."""
        return self._streams.at_once + 1

    def _parts(self) -> tuple[Uploader, Downloader]:
        """Return what works with the store, made once: what it bounds, it bounds for all."""
        with self._opening:
            if self._made is None:
                store = self._open_store(self._requests)
                uploader = Uploader(
                    store,
                    prefix=self._prefix,
                    recipient=lambda: Recipient(public_key=self._cluster_key.current().public_key),
                    sign=self._sign,
                    verify=self._verify,
                    sent=self._metrics.store_sent_bytes.inc,
                    streams=self._streams,
                    is_hurried=lambda: self._is_hurried,
                    meter=Meter(self._known.take, rate=self._widen),
                )
                downloader = Downloader(
                    store,
                    prefix=self._prefix,
                    verify=self._verify,
                    received=self._metrics.store_received_bytes.inc,
                )
                self._made = uploader, downloader
            return self._made

    def _sign(self, value: Envelope) -> bytes:
        mine = self._credentials()
        (leaf,) = certificates.read_certificates(mine.certificate)
        return envelope.seal(value, key=certificates.read_key(mine.key), certificate=leaf)

    def _verify(self, raw: bytes) -> Envelope:
        """Return an envelope of one of this cluster's nodes. Raises as its reader.

        Whom to talk to is one question, who sealed a checkpoint months ago another: there also
        authorities count that have expired.
        """
        trusted = certificates.read_certificates(self._credentials().authorities)
        with contextlib.suppress(ArchitectError):
            trusted += [c for c in self._cluster_key.current().authorities if c not in trusted]
        return envelope.from_bytes(raw, authorities=trusted)
