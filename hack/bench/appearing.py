"""Directories of a node that are watched while pods come and go: when what appeared in them.

What is saved of a pod, and what comes for one, is written in a directory of another name that gets
its own when all of it is there: its making and its renaming are the two ends of the work. The
kernel tells both (inotify(7)) with no delay that matters here and at no cost to the node.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

from bench.errors import BenchError

IN_MOVED_TO: Final = 0x80  # <linux/inotify.h>
IN_CREATE: Final = 0x100
IN_CLOEXEC: Final = os.O_CLOEXEC
PARTIAL: Final = ".partial"
CLOSE_SECONDS: Final = 0.2
"""How soon the thread sees that nobody wants to know any more."""
_HEAD: Final = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """What appears in one directory from now on, noted by a thread. A context."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._changed = threading.Condition()
        self._times: dict[str, float] = {}
        self._fd = _libc.inotify_init1(IN_CLOEXEC)
        if self._fd < 0:
            raise _failure(directory)
        if _libc.inotify_add_watch(self._fd, os.fsencode(directory), IN_CREATE | IN_MOVED_TO) < 0:
            error = _failure(directory)
            os.close(self._fd)
            raise error
        self._is_closed = False
        self._thread = threading.Thread(target=self._read, name="appearing", daemon=True)
        self._thread.start()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_closed = True
        self._thread.join()
        os.close(self._fd)

    def at(self, name: str, *, seconds: float = 0.0) -> float:
        """Return when *name* appeared, in Unix seconds; wait *seconds* for it.

        Raises BenchError if it has not.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: name in self._times, seconds):
                raise BenchError(f"{name} has not appeared in {self._directory}")
            return self._times[name]

    def _read(self) -> None:
        while not self._is_closed:
            if not select.select([self._fd], [], [], CLOSE_SECONDS)[0]:
                continue
            at = time.time()
            with self._changed:
                for name in names_in(os.read(self._fd, 1 << 16)):
                    self._times.setdefault(name, at)
                self._changed.notify_all()


def names_in(data: bytes) -> Iterator[str]:
    """Yield the names in what the kernel tells, in order."""
    at = 0
    while at < len(data):
        _, _, _, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        yield os.fsdecode(data[at : at + length].rstrip(b"\0"))
        at += length


def _failure(directory: Path) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), str(directory))
