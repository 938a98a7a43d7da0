"""A checkpoint of this node into the object store: shards in parallel, the envelope last.

What is already there is not sent again, by whichever daemon. Until the envelope lies there, and it
is never replaced, the store holds no checkpoint. It is written only after what was sealed was found
to be what the manifest says (:mod:`.proof`): files that were not synced may hold nothing after a
power cut, and what is committed is believed by everybody.
"""

from __future__ import annotations

import datetime
import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from architect.checkpoint import envelope, keys
from architect.checkpoint.envelope import Envelope
from architect.checkpoint.manifest import Manifest
from architect.core.errors import Rejected
from architect.daemon.vault import progress
from architect.daemon.vault.meter import Meter
from architect.daemon.vault.progress import Begun
from architect.daemon.vault.sending import Sending
from architect.daemon.vault.streams import Streams
from architect.daemon.vault.transfer import SHARD_SECONDS, Bucket, Patience

PATIENCE_SECONDS: Final = 120.0
"""How long a store may refuse everything before an upload is given up; upkeep tries again."""


@dataclass(frozen=True, kw_only=True)
class Uploaded:
    """What lies in the store, as the Checkpoint is to say it."""

    key: str
    sha256: str
    key_id: str
    wrapped_key: bytes
    stored_bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Recipient:
    """Whom the data key is encrypted for: the operator, by the public half of its key."""

    public_key: keys.PublicKey

    @property
    def id(self) -> str:
        """Name of the key."""
        return keys.key_id(self.public_key)


class Uploader:
    """Sends checkpoints, several at once. Safe to use from several threads."""

    def __init__(
        self,
        store: Bucket,
        *,
        prefix: str,
        recipient: Callable[[], Recipient],
        sign: Callable[[Envelope], bytes],
        verify: Callable[[bytes], Envelope],
        sent: Callable[[int], None] = lambda _: None,
        patience_seconds: float = PATIENCE_SECONDS,
        streams: Streams | None = None,
        is_hurried: Callable[[], bool] = lambda: False,
        meter: Meter | None = None,
    ) -> None:
        """Prepare; *is_hurried* tells, at once, whether to be impatient with the store."""
        self._store = store
        self._prefix = prefix
        self._recipient = recipient
        self._sign = sign
        self._verify = verify
        self._sent = sent
        self._patience_seconds = patience_seconds
        self._streams = streams or Streams()
        self._is_hurried = is_hurried
        self._has_worked = False
        self._meter = meter or Meter(lambda *_: None)

    def upload(
        self,
        directory: Path,
        manifest: Manifest,
        *,
        notes: Path,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> Uploaded:
        """Send what lies in *directory*; *notes* is where the upload is noted.

        Raises Rejected with reason ``Unwanted`` once *is_wanted* says no; what the store says;
        FormatError or FileNotFoundError if the files are not those of the manifest any more.
        """
        started = time.monotonic()
        noted = progress.resume(notes, manifest_sha256=manifest.sha256)
        if noted is None:
            noted = progress.begin(notes, self._begin(manifest))
        Sending(
            self._store,
            directory,
            manifest,
            noted,
            streams=self._streams,
            prefix=self._prefix,
            patience=self._patience(),
            is_wanted=is_wanted,
            sent=self._count,
            meter=self._meter,
        ).run()
        listed = tuple(noted.shards[n] for n in range(envelope.shards_of(manifest.total_bytes)))
        raw = self._sign(
            Envelope(
                manifest=manifest,
                attempt=noted.begun.attempt,
                sealed=datetime.datetime.now(tz=datetime.UTC).replace(microsecond=0),
                shards=listed,
                key_id=noted.begun.key_id,
                wrapped_key=noted.begun.wrapped_key,
            )
        )
        key = envelope.manifest_key(manifest.about.namespace, manifest.id, below=self._prefix)
        raw = self._commit(key, raw, manifest)
        there = self._verify(raw)
        return Uploaded(
            key=key,
            sha256=hashlib.sha256(raw).hexdigest(),
            key_id=there.key_id,
            wrapped_key=there.wrapped_key,
            stored_bytes=sum(shard.size for shard in there.shards) + len(raw),
            seconds=time.monotonic() - started,
        )

    def _patience(self) -> Patience:
        return Patience(
            self._patience_seconds,
            is_hurried=self._is_hurried,
            is_known=lambda: self._has_worked,
        )

    def _count(self, size: int) -> None:
        self._has_worked = True
        self._sent(size)

    def _begin(self, manifest: Manifest) -> Begun:
        recipient, data_key = self._recipient(), keys.new_data_key()
        return Begun(
            manifest_sha256=manifest.sha256,
            attempt=envelope.new_attempt(),
            data_key=data_key,
            key_id=recipient.id,
            wrapped_key=keys.wrap(data_key, recipient.public_key, envelope.binding_of(manifest)),
        )

    def _commit(self, key: str, raw: bytes, manifest: Manifest) -> bytes:
        """Write the envelope, unless one of this checkpoint lies there; return what does."""
        patience, ended = self._patience(), threading.Event()

        def put() -> None:
            with self._meter.sending(len(raw)):
                self._store.put(key, raw, is_new=True, timeout_seconds=SHARD_SECONDS)

        try:
            patience.with_(put, ended)
        except Rejected as error:
            if error.reason != "Exists":
                raise
        else:
            return raw
        # By an attempt whose answer was lost, or by an earlier daemon.
        there = patience.with_(
            lambda: self._store.get(
                key, most_bytes=envelope.MAX_BYTES, timeout_seconds=SHARD_SECONDS
            ),
            ended,
        )
        if self._verify(there).manifest.sha256 != manifest.sha256:
            raise Rejected(f"object {key} is of another checkpoint", reason="Exists")
        return there
