"""The shards of one upload on their way: read, proved, sealed and put, in whichever stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from architect.checkpoint import envelope
from architect.checkpoint.envelope import Shard
from architect.checkpoint.manifest import Manifest
from architect.core.errors import Rejected
from architect.daemon.vault import shards
from architect.daemon.vault.meter import Meter
from architect.daemon.vault.progress import Progress
from architect.daemon.vault.proof import Proof
from architect.daemon.vault.shards import ShardName
from architect.daemon.vault.stream import Stream, read
from architect.daemon.vault.streams import Streams
from architect.daemon.vault.transfer import SHARD_SECONDS, Bucket, Patience

UNWANTED: Final = "Unwanted"
"""Reason of a refusal: nobody needs it in the store any more."""


class Sending:
    """Of one upload, as it goes on from *noted*. Used once."""

    def __init__(
        self,
        store: Bucket,
        directory: Path,
        manifest: Manifest,
        noted: Progress,
        *,
        streams: Streams,
        prefix: str,
        patience: Patience,
        is_wanted: Callable[[], bool],
        sent: Callable[[int], None],
        meter: Meter,
    ) -> None:
        self._store = store
        self._directory = directory
        self._manifest = manifest
        self._noted = noted
        self._prefix = prefix
        self._patience = patience
        self._is_wanted = is_wanted
        self._sent = sent
        self._meter = meter
        self._stream = Stream(manifest)
        numbers = range(envelope.shards_of(self._stream.length))
        self._missing = [n for n in numbers if n not in noted.shards]
        self._streams = streams
        self._proof = Proof(
            directory,
            self._stream,
            self._missing,
            streams=lambda: streams.at_once,
            hashed=meter.hashed,
        )
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._arrived: dict[int, Shard] = {}
        """What lies in the store and is not proved yet."""

    def run(self) -> None:
        """Send every shard that is not noted, and prove that they are what the manifest says.

        The first failure ends all, and is raised.
        """
        self._streams.run(self._manifest.id, self._send, self._missing)
        self._proof.finish()
        self._note()

    def _send(self, number: int) -> None:
        if self._ended.is_set():
            return
        try:
            self._check_wanted()
            self._seal_and_put(number)
        except BaseException:
            # Nobody is patient for an upload that has failed, or waits for his turn.
            self._ended.set()
            self._proof.give_up()
            raise

    def _seal_and_put(self, number: int) -> None:
        about = ShardName(id=self._manifest.id, attempt=self._noted.begun.attempt, number=number)
        plain = read(
            self._directory,
            self._stream,
            start=number * envelope.SHARD_BYTES,
            length=envelope.shard_length(self._stream.length, number),
        )
        if not self._proof.check(number, plain):
            return
        began = time.thread_time()
        sealed = shards.seal_shard(plain, key=self._noted.begun.data_key, about=about)
        entry = sealed.to_entry()
        self._meter.sealed(time.thread_time() - began, len(plain))
        del plain
        key = envelope.shard_key(
            self._manifest.about.namespace, about.id, about.attempt, number, below=self._prefix
        )

        def put() -> None:
            self._check_wanted()  # also while the store is away: what is not, leaves the disk
            with self._meter.sending(len(sealed.data)):
                self._store.put(key, sealed.data, timeout_seconds=SHARD_SECONDS)

        self._patience.with_(put, self._ended)
        self._sent(len(sealed.data))
        with self._lock:
            self._arrived[number] = entry
        self._note()

    def _note(self) -> None:
        """Note what has arrived and is proved."""
        with self._lock:
            length, proved = self._stream.length, self._proof.proved
            for number in sorted(self._arrived):
                if min((number + 1) * envelope.SHARD_BYTES, length) > proved:
                    break
                self._noted.add(number, self._arrived.pop(number))

    def _check_wanted(self) -> None:
        if not self._is_wanted():
            raise Rejected(
                f"checkpoint {self._manifest.id} is not wanted in the store any more",
                reason=UNWANTED,
            )
