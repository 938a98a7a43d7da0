"""Memory hashed while it is being dumped, so that a pod does not stand still for it.

CRIU appends to the files with memory (``pages-*.img``) and never writes what it has written once
again. So a thread reads behind it and hashes; at the dump's end only the last bytes are missing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from architect.checkpoint import digests
from architect.checkpoint.manifest import SEGMENT_BYTES
from architect.core import files

PATTERN: Final = "pages-*.img"
PAUSE_SECONDS: Final = 0.005
"""Between two looks that found nothing new: CRIU writes some megabytes meanwhile."""
READ_BYTES: Final = 1024**2


@dataclass(frozen=True, kw_only=True)
class FileId:
    """A file, whatever its names."""

    device: int
    inode: int

    @classmethod
    def of(cls, info: os.stat_result) -> FileId:
        """Return which file *info* is about."""
        return cls(device=info.st_dev, inode=info.st_ino)


@dataclass(frozen=True, kw_only=True)
class Hashed:
    """What was read of one file, from its beginning."""

    size: int
    hashes: tuple[str, ...]
    """Of each segment, as a manifest has them."""


class Following:
    """Hashes what grows in *directories*, as a context; they need not exist yet.

    The files that :attr:`hashed` names stay open until the context's end: until then no other file
    has their numbers.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = directories
        self._stop = threading.Event()
        self._files: dict[Path, _File] = {}
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._thread = threading.Thread(target=self._run, name="hash-ahead", daemon=True)

    def __enter__(self) -> Following:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        for file in self._files.values():
            file.close()

    def hashed(self) -> Mapping[FileId, Hashed]:
        """Stop once the begun segments are whole, and return what is known of each file.

        What could not be read is not in it, and of what came too fast only the beginning is.
        """
        self._end()
        for file in self._files.values():
            while file.is_within_segment and file.step(self._buffer):
                pass
        return {file.id: file.result() for file in self._files.values() if not file.is_broken}

    def _end(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._discover()
            # One step of each: those of several containers are dumped at the same time.
            steps = [file.step(self._buffer) for file in self._files.values()]
            if not any(steps):
                self._stop.wait(PAUSE_SECONDS)

    def _discover(self) -> None:
        for directory in self._directories:
            for path in files.matching(directory, PATTERN):
                known = self._files.get(path)
                if known is not None and known.is_at(path):
                    continue
                # A dump that failed is begun anew, in a new directory.
                try:
                    found = _File(path)
                except OSError:
                    continue  # it was removed a moment ago
                if known is not None:
                    known.close()
                self._files[path] = found


class _File:
    """One file, read from its beginning to wherever it ends at the moment."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self.id = FileId.of(os.fstat(self._fd))
        self.is_broken = False
        self._size = 0
        self._done: list[str] = []
        self._value = digests.hasher()

    @property
    def is_within_segment(self) -> bool:
        return self._size % SEGMENT_BYTES != 0

    def is_at(self, path: Path) -> bool:
        try:
            return FileId.of(os.stat(path, follow_symlinks=False)) == self.id
        except OSError:
            return True  # gone, and nothing else in its place

    def step(self, buffer: memoryview) -> bool:
        """Hash what has come, at most a bufferful; return whether anything has."""
        if self.is_broken:
            return False
        room = SEGMENT_BYTES - self._size % SEGMENT_BYTES
        try:
            got = os.preadv(self._fd, [buffer[: min(room, len(buffer))]], self._size)
        except OSError:
            self.is_broken = True
            return False
        self._value.update(buffer[:got])
        self._size += got
        if got == room:
            self._done.append(self._value.hexdigest())
            self._value = digests.hasher()
        return got > 0

    def result(self) -> Hashed:
        begun = (self._value.hexdigest(),) if self.is_within_segment else ()
        return Hashed(size=self._size, hashes=(*self._done, *begun))

    def close(self) -> None:
        os.close(self._fd)
