"""The pieces of a checkpoint as one row of bytes, which shards are cut from. Pure but for reads."""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from architect.checkpoint import manifest as manifests
from architect.checkpoint.manifest import Manifest, Piece
from architect.core.errors import FormatError


@dataclass(frozen=True, kw_only=True)
class Extent:
    """A part of one piece."""

    piece: Piece
    start: int
    """Within the piece."""
    length: int


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of one piece with a hash of its own, where it lies in the row."""

    piece: Piece
    number: int
    """Within the piece."""
    start: int
    end: int


class Stream:
    """All pieces of *manifest* in its order, one behind the other."""

    def __init__(self, manifest: Manifest) -> None:
        self._pieces = [piece for piece in manifest.pieces if piece.size]
        self._starts = list(itertools.accumulate((p.size for p in self._pieces), initial=0))

    @property
    def length(self) -> int:
        """Bytes in all."""
        return self._starts[-1]

    def segment(self, position: int) -> Segment:
        """Return the segment that the byte at *position* belongs to. It is within the row."""
        piece, begins = self._at(position)
        number = (position - begins) // manifests.SEGMENT_BYTES
        start = number * manifests.SEGMENT_BYTES
        end = min(start + manifests.SEGMENT_BYTES, piece.size)
        return Segment(piece=piece, number=number, start=begins + start, end=begins + end)

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """Yield what *length* bytes from *start* consist of, in order. They are within it."""
        end = start + length
        while start < end:
            piece, begins = self._at(start)
            part = min(end, begins + piece.size) - start
            yield Extent(piece=piece, start=start - begins, length=part)
            start += part

    def _at(self, position: int) -> tuple[Piece, int]:
        """Return the piece at *position*, and where it begins."""
        number = bisect.bisect_right(self._starts, position) - 1
        return self._pieces[number], self._starts[number]


def read(directory: Path, stream: Stream, *, start: int, length: int) -> bytearray:
    """Return a part of the row from the files in *directory*.

    Raises FormatError if a file is shorter than its manifest says, OSError.
    """
    data = bytearray(length)
    view = memoryview(data)
    for extent in stream.extents(start, length):
        path = directory / extent.piece.name
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            at, left = extent.start, view[: extent.length]
            while left:
                got = os.preadv(fd, [left], at)
                if got == 0:
                    raise FormatError(f"{path} ends at {at} and is shorter than it was")
                at, left = at + got, left[got:]
        finally:
            os.close(fd)
        view = view[extent.length :]
    return data
