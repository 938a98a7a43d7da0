"""That what is sent is what the manifest says: proved of the very bytes that are sealed.

What was read of a shard is hashed and sealed, the hash as a part of the manifest's segments, which
are compared when their last byte has come. So nothing is read or hashed a second time, and nothing
is left to do once the last shard has arrived.

**What is guaranteed.** An upload whose proof was finished sealed exactly the bytes that its
manifest names, shard for shard. A file that is not (any more) what the manifest says when it is
read ends the upload; a file that changes after that is not looked at, and what lies in the store is
as it was. Nothing is believed of a shard that was sent before all its segments were compared, so
:attr:`Proof.proved` says what may be noted for another daemon. What an earlier one noted it had
proved, too, and it is not read again, but for what its segments share with shards that are sent
now: a segment's hash can only be had of the whole. That part comes from the disk, and if it is not
what was sent then, the hash is another one and the upload ends. (That hash is taken to
have no collisions.)

Segments are hashed from their beginning on, so shards have their turns in the stream's order.
Streams begin them in that order, so whose turn it is is always under way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from architect.checkpoint import digests, envelope
from architect.checkpoint import manifest as manifests
from architect.core.errors import FormatError
from architect.daemon.vault.stream import Segment, Stream, read

STREAMS_AHEAD: Final = 3
"""Of so many streams one may be a shard ahead of the hash, 8 MiB of memory each. Those that would
be further ahead wait: one upload is sent no faster than one core hashes."""

READ_BYTES: Final = 1024**2
"""Of what is read once more."""


class Proof:
    """Of one upload that sends the shards *numbers*, in this order, which is the stream's.

    Safe to use from several threads, one a shard; no thread changes what it has given.
    """

    def __init__(
        self,
        directory: Path,
        stream: Stream,
        numbers: Sequence[int],
        *,
        streams: Callable[[], int],
        hashed: Callable[[float, int], None],
    ) -> None:
        """Prepare; *streams* tells, at once, how many shards are sent at the same time.

        *hashed* is told how many seconds one core took for how many bytes.
        """
        self._directory = directory
        self._stream = stream
        self._streams = streams
        self._hashed = hashed
        self._turns = {number: turn for turn, number in enumerate(numbers)}
        self._changed = threading.Condition()
        self._turn = 0
        self._waiting: dict[int, tuple[int, bytearray]] = {}
        self._is_busy = False
        self._is_over = False
        # Of who is hashing:
        self._at = 0
        self._hash = digests.hasher()
        self._proved = 0

    @property
    def proved(self) -> int:
        """Up to where the stream is proved, but for what an earlier daemon noted."""
        return self._proved

    def check(self, number: int, plain: bytearray) -> bool:
        """Take what was read of a shard. False: another one has failed.

        Who comes before its turn leaves it to whoever is hashing, and goes on. Raises FormatError,
        which names the file, if a segment is not what the manifest says; OSError.
        """
        with self._changed:
            turn = self._turns[number]
            self._changed.wait_for(lambda: turn < self._turn + self._ahead or self._is_over)
            if self._is_over:
                return False
            self._waiting[turn] = number, plain
            del plain
            if self._is_busy:
                return True
            self._is_busy = True
        while (found := self._next()) is not None:
            self._catch_up(found[0] * envelope.SHARD_BYTES)
            self._feed(found[1])
            with self._changed:
                self._turn += 1
                self._changed.notify_all()
        return True

    @property
    def _ahead(self) -> int:
        return max(1, self._streams() // STREAMS_AHEAD)

    def _next(self) -> tuple[int, bytearray] | None:
        """Return the shard whose turn it is, if it was read."""
        with self._changed:
            found = self._waiting.pop(self._turn, None)
            self._is_busy = found is not None
            return found

    def finish(self) -> None:
        """Compare the last segment, after all shards. Raises FormatError, OSError."""
        if self._turns:
            self._feed_from_disk(self._stream.segment(self._at - 1).end)

    def give_up(self) -> None:
        """Let nobody wait any more: the upload has failed."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _catch_up(self, start: int) -> None:
        """Be at *start*, with the hash of its segment: what lies before was noted earlier."""
        if self._at == start:
            return
        if self._at > self._proved:
            self._feed_from_disk(min(start, self._stream.segment(self._at).end))
        if self._at < start:
            self._at = self._proved = self._stream.segment(start).start
            self._feed_from_disk(start)

    def _feed_from_disk(self, end: int) -> None:
        while self._at < end:
            length = min(READ_BYTES, end - self._at)
            self._feed(read(self._directory, self._stream, start=self._at, length=length))

    def _feed(self, plain: bytearray) -> None:
        began = time.thread_time()
        self._hash_on(plain)
        self._hashed(time.thread_time() - began, len(plain))

    def _hash_on(self, plain: bytearray) -> None:
        view = memoryview(plain)
        while view:
            segment = self._stream.segment(self._at)
            if self._at == segment.start:
                self._hash = digests.hasher()
            part = view[: segment.end - self._at]
            self._hash.update(part)
            self._at += len(part)
            view = view[len(part) :]
            if self._at == segment.end:
                self._compare(segment)
                self._proved = self._at

    def _compare(self, segment: Segment) -> None:
        if self._hash.hexdigest() != segment.piece.hashes[segment.number]:
            raise FormatError(
                f"{self._directory}: {segment.piece.name} is damaged within "
                f"{manifests.SEGMENT_BYTES} bytes from {segment.number * manifests.SEGMENT_BYTES}"
            )
