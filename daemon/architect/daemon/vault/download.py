"""A checkpoint from the object store into a directory that appears whole or not at all.

The envelope comes first and is judged before a shard is asked for. Shards come in parallel; each is
compared with the envelope, authenticated, expanded to the length that it must have, written to its
place and noted, so that none comes twice: neither to the daemon that follows one that ended in the
middle, nor after a store that stayed away for longer than it was waited for. One that is not to be
expanded is written while it is decrypted: it is known to be what the envelope lists by then, and
is noted, as what lies in its place, once it is authentic.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from architect.checkpoint import digests, envelope
from architect.checkpoint.envelope import Envelope
from architect.checkpoint.manifest import Manifest
from architect.core.errors import FormatError, Rejected, Retryable, Unavailable
from architect.daemon.checkpoint.landing import Landing
from architect.daemon.vault import received, shards
from architect.daemon.vault.received import Received
from architect.daemon.vault.shards import ShardName
from architect.daemon.vault.stream import Stream
from architect.daemon.vault.transfer import SHARD_SECONDS, Bucket, Patience, together

STREAMS: Final = max(3, min(4, os.cpu_count() or 1))
"""Shards that come at once, of all checkpoints: more than there are cores are no faster, and take
their memory, in the client and here. Six on two cores took 76 MB more than four."""

PATIENCE_SECONDS: Final = 20.0
"""How long a store may do nothing but fail. A request that gets no answer fails after
:data:`SHARD_SECONDS`, and a pod that starts waits for both, as long as its own time is not up."""


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """What has arrived."""

    manifest: Manifest
    seconds: float
    resumed_shards: int
    """So many had come to an earlier attempt."""


class Downloader:
    """Gets checkpoints, several at once. Safe to use from several threads."""

    def __init__(
        self,
        store: Bucket,
        *,
        prefix: str,
        verify: Callable[[bytes], Envelope],
        received: Callable[[int], None] = lambda _: None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._verify = verify
        self._received = received
        self._patience_seconds = patience_seconds
        self._slots = threading.BoundedSemaphore(STREAMS)

    def describe(self, key: str, *, sha256: str) -> Envelope:
        """Return the envelope at *key*, which must be the one of that SHA-256.

        Raises Rejected with reason ``WrongCheckpoint`` if it is not, what the store says, and what
        :func:`architect.checkpoint.envelope.from_bytes` says.
        """
        patience = Patience(self._patience_seconds)
        raw = patience.with_(
            lambda: self._store.get(
                key, most_bytes=envelope.MAX_BYTES, timeout_seconds=SHARD_SECONDS
            ),
            threading.Event(),
        )
        found = hashlib.sha256(raw).hexdigest()
        if found != sha256:
            raise Rejected(
                f"object {key} has SHA-256 {found} instead of {sha256}", reason="WrongCheckpoint"
            )
        return self._verify(raw)

    def download(
        self,
        described: Envelope,
        data_key: bytes,
        target: Path,
        *,
        floor_bytes: int = 0,
        is_durable: bool = True,
        timeout_seconds: float,
    ) -> Downloaded:
        """Get what *described* lists into the directory *target*, whole.

        If it raises, there is nothing at *target*: what :meth:`Landing.prepare` and the store say;
        FormatError for a shard that is damaged or not of this checkpoint; Unavailable. After what
        another try may settle, that try goes on with the shards that have come.
        """
        started, manifest = time.monotonic(), described.manifest
        with Landing(target) as landing:
            noted = _prepare(landing, manifest, floor_bytes=floor_bytes)
            resumed = len(noted.shards)
            try:
                self._get_all(
                    described, data_key, landing, noted, ends_at=started + timeout_seconds
                )
            except Retryable:
                landing.keep()
                raise
            landing.commit(manifest, is_durable=is_durable)
        return Downloaded(
            manifest=manifest, seconds=time.monotonic() - started, resumed_shards=resumed
        )

    def _get_all(
        self,
        described: Envelope,
        data_key: bytes,
        landing: Landing,
        noted: Received,
        *,
        ends_at: float,
    ) -> None:
        """Get every shard that is not noted. The first failure ends all."""
        manifest, stream = described.manifest, Stream(described.manifest)
        patience, ended = Patience(self._patience_seconds), threading.Event()

        def get(number: int) -> None:
            shard = described.shards[number]
            about = ShardName(id=manifest.id, attempt=described.attempt, number=number)
            key = envelope.shard_key(
                manifest.about.namespace, about.id, about.attempt, number, below=self._prefix
            )

            def ask() -> bytes:
                left = ends_at - time.monotonic()
                if left <= 0:
                    ended.set()
                    raise Unavailable(f"checkpoint {manifest.id} took too long from the store")
                return self._store.get(
                    key, most_bytes=shard.size, timeout_seconds=min(SHARD_SECONDS, left)
                )

            with self._slots:
                if ended.is_set():
                    return
                sealed = patience.with_(ask, ended)
                self._received(len(sealed))
                if digests.of(sealed) != shard.hash:
                    raise FormatError(f"object {key} is not what its checkpoint lists")
                at = number * envelope.SHARD_BYTES
                for piece in shards.open_in_pieces(
                    sealed,
                    key=data_key,
                    about=about,
                    codec=shard.codec,
                    length=envelope.shard_length(stream.length, number),
                ):
                    _write(landing, stream, at, piece)
                    at += len(piece)
            noted.add(number)

        missing = [n for n in range(len(described.shards)) if n not in noted.shards]
        together(get, missing, ended=ended, streams=STREAMS, name="download")


def _prepare(landing: Landing, manifest: Manifest, *, floor_bytes: int) -> Received:
    """Have the files be there; return what of them has come already."""
    noted = received.resume(landing.notes, manifest_sha256=manifest.sha256)
    if noted is None:
        landing.prepare(manifest, floor_bytes=floor_bytes)
        return received.begin(landing.notes, manifest_sha256=manifest.sha256)
    landing.go_on()
    return noted


def _write(landing: Landing, stream: Stream, start: int, view: memoryview) -> None:
    for extent in stream.extents(start, len(view)):
        with landing.open(extent.piece) as part:
            part.write(view[: extent.length], extent.start)
        view = view[extent.length :]
