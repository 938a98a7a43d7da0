"""The shards of one upload on their way: each is read, sealed and put, in whichever stream."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from architect.checkpoint import envelope
from architect.checkpoint.manifest import Manifest
from architect.core.errors import Rejected
from architect.daemon.vault import shards
from architect.daemon.vault.progress import Progress
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
        prefix: str,
        patience: Patience,
        is_wanted: Callable[[], bool],
        sent: Callable[[int], None],
    ) -> None:
        self._store = store
        self._directory = directory
        self._manifest = manifest
        self._noted = noted
        self._prefix = prefix
        self._patience = patience
        self._is_wanted = is_wanted
        self._sent = sent
        self._stream = Stream(manifest)
        self._ended = threading.Event()

    def run(self, streams: Streams) -> None:
        """Send every shard that is not noted. The first failure ends all, and is raised."""
        numbers = range(envelope.shards_of(self._stream.length))
        missing = [n for n in numbers if n not in self._noted.shards]
        streams.run(self._manifest.id, self._send, missing)

    def _send(self, number: int) -> None:
        if self._ended.is_set():
            return
        try:
            self._check_wanted()
            self._seal_and_put(number)
        except BaseException:
            self._ended.set()  # nobody is patient for an upload that has failed
            raise

    def _seal_and_put(self, number: int) -> None:
        about = ShardName(id=self._manifest.id, attempt=self._noted.begun.attempt, number=number)
        plain = read(
            self._directory,
            self._stream,
            start=number * envelope.SHARD_BYTES,
            length=envelope.shard_length(self._stream.length, number),
        )
        sealed = shards.seal_shard(plain, key=self._noted.begun.data_key, about=about)
        del plain
        key = envelope.shard_key(
            self._manifest.about.namespace, about.id, about.attempt, number, below=self._prefix
        )

        def put() -> None:
            self._check_wanted()  # also while the store is away: what is not, leaves the disk
            self._store.put(key, sealed.data, timeout_seconds=SHARD_SECONDS)

        self._patience.with_(put, self._ended)
        self._sent(len(sealed.data))
        self._noted.add(number, sealed.to_entry())

    def _check_wanted(self) -> None:
        if not self._is_wanted():
            raise Rejected(
                f"checkpoint {self._manifest.id} is not wanted in the store any more",
                reason=UNWANTED,
            )
