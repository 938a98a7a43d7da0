"""glibc's allocator, told how a daemon uses memory.

Shards of 8 MiB come and go by the hundred. glibc gives each back to the kernel as soon as it is
free, and fetches the next one page by page: of a download's time that was half. So what is free is
kept while shards are on their way, and given back when none is.

Where there is no such call (another C library) nothing happens: all is as slow as before.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
"""malloc.h."""

KEPT_BYTES: Final = 256 * 1024**2
"""Of free memory at the end of the heap: more than ever is free, so none is given back unasked."""

LARGE_BYTES: Final = 32 * 1024**2
"""From here on a block is the kernel's at once: the most that glibc allows, and no block is."""

ARENAS: Final = 1
"""Each keeps what is free for itself; threads that copy shards seldom wait for one another."""


class Heap:
    """Of this process. Safe to use from several threads."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._lock = threading.Lock()
        self._users = 0

    def prepare(self) -> None:
        """Set the limits: before other threads are started, which have arenas of their own then."""
        with contextlib.suppress(AttributeError):
            self._libc.mallopt(_M_ARENA_MAX, ARENAS)
            self._libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
            self._libc.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """While shards come and go; when nobody is at it any more, what is free is given back."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                is_last = not self._users
            if is_last:
                with contextlib.suppress(AttributeError):
                    self._libc.malloc_trim(0)
