"""Gets a checkpoint from another node's daemon.

The manifest comes first and is judged before any byte of a piece is asked for. Then segments come
in parallel, are hashed as they are written, and a broken one goes on at its offset: at the same
daemon, or at the one that has taken its place. Everything was compared with the manifest before
the checkpoint appears at its target.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from architect.checkpoint import manifest as manifests
from architect.checkpoint.manifest import SEGMENT_BYTES, Manifest, Piece
from architect.core.errors import FormatError
from architect.daemon.checkpoint.landing import Landing
from architect.daemon.peer import protocol
from architect.daemon.peer.credentials import Credentials
from architect.daemon.peer.source import WATCH_SECONDS, Source, dial

STREAMS: Final = 4
"""Segments of one checkpoint that come at once."""

ALL_STREAMS: Final = 8
"""Of all checkpoints that come to this node at once; the others wait."""

PATIENCE_SECONDS: Final = 20.0
"""How long a source may give nothing before it is given up: a daemon's restart takes some seconds,
and a pod that starts waits for this."""

TIMEOUT_SECONDS: Final = 600.0
"""For a whole checkpoint: 64 GiB at 110 MB/s."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What has arrived."""

    manifest: Manifest
    seconds: float
    breaks: int
    """How often a call broke and was made again."""


@dataclass(frozen=True, kw_only=True)
class _Segment:
    number: int
    """Of the piece, in the manifest."""
    piece: Piece
    start: int
    length: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.piece.name} at {self.start}"


class Fetcher:
    """Gets checkpoints, several at once. Safe to use from several threads.

    *credentials* and *address_of* are asked at each connection; *suspect* is told when TLS failed.
    """

    def __init__(
        self,
        *,
        credentials: Callable[[], Credentials],
        address_of: Callable[[str], str],
        suspect: Callable[[], None] = lambda: None,
        received: Callable[[int], None] = lambda _: None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._credentials = credentials
        self._address_of = address_of
        self._suspect = suspect
        self._received = received
        self._patience_seconds = patience_seconds
        self._slots = threading.BoundedSemaphore(ALL_STREAMS)

    def fetch(
        self,
        node: str,
        checkpoint_id: str,
        target: Path,
        *,
        accept: Callable[[Manifest], None] = lambda _: None,
        floor_bytes: int = 0,
        is_durable: bool = True,
        patience_seconds: float | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> Fetched:
        """Get checkpoint *checkpoint_id* from *node* into the directory *target*, whole.

        *accept* may raise to refuse the manifest, before anything else is fetched. *floor_bytes* of
        the disk stay free. *patience_seconds* is in place of the fetcher's own. See
        :meth:`Landing.commit` for *is_durable*.

        If it raises, there is nothing at *target*:
        Unavailable if the source does not answer, or not in time;
        Rejected with reason ``NotAllowed``, ``UnknownCheckpoint``, ``UnknownVersion``,
        ``Untrusted``, ``Exists``, ``AlreadyArriving`` or ``BadRequest``;
        FormatError if the checkpoint is damaged or its manifest is not acceptable;
        NodeError with reason ``DiskFull`` or ``DiskFailed``.
        """
        started = time.monotonic()
        with Landing(target) as landing:
            source = Source(
                node,
                dial=lambda: dial(node, self._address_of(node), self._credentials()),
                suspect=self._suspect,
                patience_seconds=(
                    self._patience_seconds if patience_seconds is None else patience_seconds
                ),
                ends_at=started + timeout_seconds,
            )
            try:
                manifest = _describe(source, checkpoint_id)
                accept(manifest)
                landing.prepare(manifest, floor_bytes=floor_bytes)
                self._get_all(source, manifest, landing)
            finally:
                source.close()
            landing.commit(manifest, is_durable=is_durable)
        return Fetched(manifest=manifest, seconds=time.monotonic() - started, breaks=source.breaks)

    def _get_all(self, source: Source, manifest: Manifest, landing: Landing) -> None:
        """Get every segment. The first failure ends all."""
        pool = concurrent.futures.ThreadPoolExecutor(STREAMS, "peer-fetch")
        try:
            waiting = {
                pool.submit(self._get, source, manifest.id, segment, landing)
                for segment in _segments(manifest)
            }
            while waiting:
                done, waiting = concurrent.futures.wait(
                    waiting,
                    timeout=WATCH_SECONDS,
                    return_when=concurrent.futures.FIRST_EXCEPTION,
                )
                for job in done:
                    job.result()
                source.check()
        finally:
            source.cancel()
            pool.shutdown(wait=True, cancel_futures=True)

    def _get(self, source: Source, checkpoint_id: str, segment: _Segment, landing: Landing) -> None:
        """Get one segment, however often it breaks."""
        value = hashlib.sha256()
        offset, end = segment.start, segment.start + segment.length

        def go_on(channel: Any) -> None:
            nonlocal offset
            request = protocol.ReadRequest(
                id=checkpoint_id, piece=segment.number, offset=offset, length=end - offset
            )
            for data in source.stream(channel, request):
                if len(data) > min(end - offset, protocol.MAX_CHUNK_BYTES):
                    raise FormatError(f"{segment}: node {source.node} sent more than was asked for")
                part.write(data, offset)
                value.update(data)
                offset += len(data)
                source.moves()
                self._received(len(data))
            if offset != end:
                raise FormatError(
                    f"{segment}: node {source.node} ended at {offset} instead of {end}"
                )

        with source.slot(self._slots), landing.open(segment.piece) as part:
            source.patiently(f"read {segment}", go_on)
        if value.hexdigest() != segment.sha256:
            raise FormatError(f"{segment}: what node {source.node} sent has another SHA-256")


def _describe(source: Source, checkpoint_id: str) -> Manifest:
    """Return the manifest of what was asked for. Raises FormatError."""
    request = protocol.DescribeRequest(id=checkpoint_id)
    with source.at_work():
        raw = source.patiently(
            f"get checkpoint {checkpoint_id}", lambda channel: source.ask(channel, request)
        )
    manifest = manifests.from_bytes(raw)
    if manifest.id != checkpoint_id:
        raise FormatError(
            f"checkpoint {checkpoint_id}: node {source.node} sent the manifest of {manifest.id}"
        )
    return manifest


def _segments(manifest: Manifest) -> Iterator[_Segment]:
    """Yield the segments of the largest pieces first: the last ones to end are small."""
    for number, piece in sorted(enumerate(manifest.pieces), key=lambda item: -item[1].size):
        for index, sha256 in enumerate(piece.sha256):
            start = index * SEGMENT_BYTES
            yield _Segment(
                number=number,
                piece=piece,
                start=start,
                length=min(SEGMENT_BYTES, piece.size - start),
                sha256=sha256,
            )
