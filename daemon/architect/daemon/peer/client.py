"""Gets a checkpoint from another node's daemon.

The manifest comes first and is judged before any byte of a piece is asked for. Then segments come
in parallel, are hashed as they are written, and a broken one goes on at its offset: at the same
daemon, or at the one that has taken its place. Everything was compared with the manifest before
the checkpoint appears at its target.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from architect.checkpoint import digests
from architect.checkpoint import manifest as manifests
from architect.checkpoint.manifest import SEGMENT_BYTES, Manifest, Piece
from architect.core.errors import FormatError
from architect.daemon.checkpoint.landing import Landing, Part
from architect.daemon.peer import protocol
from architect.daemon.peer.credentials import Credentials
from architect.daemon.peer.source import WATCH_SECONDS, Link, Source, dial

STREAMS: Final = max(2, min(4, os.cpu_count() or 1))
"""Segments of one checkpoint that come at once. More than there are cores push one another's
records out of their caches: four on two cores took a tenth longer than two."""

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
    hash: str

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
                pool.submit(self._get, source, manifest.id, batch, landing)
                for batch in _batches(manifest)
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

    def _get(
        self, source: Source, checkpoint_id: str, batch: list[_Segment], landing: Landing
    ) -> None:
        """Get some segments, however often their connection breaks."""
        waiting = collections.deque(_Arrival(segment, node=source.node) for segment in batch)

        def go_on(link: Link) -> None:
            request = protocol.ReadRequest(
                id=checkpoint_id, parts=tuple(arrival.left for arrival in waiting)
            )
            with contextlib.closing(source.stream(link, request)) as stream:
                while waiting:
                    self._take(waiting[0], stream, source, landing)
                    waiting.popleft()

        with source.slot(self._slots):
            source.patiently(f"read {batch[0]}", go_on)

    def _take(
        self,
        arrival: _Arrival,
        stream: Iterator[memoryview],
        source: Source,
        landing: Landing,
    ) -> None:
        """Get what is left of a segment, and compare it."""
        with landing.open(arrival.segment.piece) as part:
            while not arrival.is_whole:
                data = next(stream)
                arrival.take(data, part)
                source.moves()
                self._received(len(data))
        arrival.compare()


class _Arrival:
    """A segment and how much of it has come."""

    def __init__(self, segment: _Segment, *, node: str) -> None:
        self.segment = segment
        self._node = node
        self._hash = digests.hasher()
        self._taken = 0

    @property
    def is_whole(self) -> bool:
        return self._taken == self.segment.length

    @property
    def left(self) -> protocol.Part:
        """What has not come."""
        return protocol.Part(
            piece=self.segment.number,
            offset=self.segment.start + self._taken,
            length=self.segment.length - self._taken,
        )

    def take(self, data: memoryview, part: Part) -> None:
        """Write the next bytes. Raises FormatError, NodeError."""
        if len(data) > self.segment.length - self._taken:
            raise FormatError(f"{self.segment}: node {self._node} sent more than was asked for")
        # Hashed first: a write pushes it out of the core's cache.
        self._hash.update(data)
        part.write(data, self.segment.start + self._taken)
        self._taken += len(data)

    def compare(self) -> None:
        """Raise FormatError if it is not what the manifest says."""
        if self._hash.hexdigest() != self.segment.hash:
            raise FormatError(f"{self.segment}: what node {self._node} sent has another hash")


def _describe(source: Source, checkpoint_id: str) -> Manifest:
    """Return the manifest of what was asked for. Raises FormatError."""
    request = protocol.DescribeRequest(id=checkpoint_id)
    with source.at_work():
        raw = source.patiently(
            f"get checkpoint {checkpoint_id}", lambda link: source.ask(link, request)
        )
    manifest = manifests.from_bytes(raw)
    if manifest.id != checkpoint_id:
        raise FormatError(
            f"checkpoint {checkpoint_id}: node {source.node} sent the manifest of {manifest.id}"
        )
    return manifest


def _batches(manifest: Manifest) -> Iterator[list[_Segment]]:
    """Yield what is asked for at once: a whole segment, or smaller ones as far as they go.

    Those of the largest pieces first: the last ones to end are small.
    """
    batch: list[_Segment] = []
    size = 0
    for segment in _segments(manifest):
        if batch and (size + segment.length > SEGMENT_BYTES or len(batch) == protocol.MAX_PARTS):
            yield batch
            batch, size = [], 0
        batch.append(segment)
        size += segment.length
    if batch:
        yield batch


def _segments(manifest: Manifest) -> Iterator[_Segment]:
    """Yield the segments of the largest pieces first: the last ones to end are small."""
    for number, piece in sorted(enumerate(manifest.pieces), key=lambda item: -item[1].size):
        for index, hash_ in enumerate(piece.hashes):
            start = index * SEGMENT_BYTES
            yield _Segment(
                number=number,
                piece=piece,
                start=start,
                length=min(SEGMENT_BYTES, piece.size - start),
                hash=hash_,
            )
