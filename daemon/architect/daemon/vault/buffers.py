"""Memory for shards, used again: fresh memory costs as much as what is done with it."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator


class Buffers:
    """*count* buffers of *size* bytes. Safe to use from several threads.

    A buffer is made when it is first needed, and holds what its last user has left in it.
    """

    def __init__(self, count: int, size: int) -> None:
        self._size = size
        self._free: queue.LifoQueue[bytearray | None] = queue.LifoQueue()
        for _ in range(count):
            self._free.put(None)

    @contextlib.contextmanager
    def lend(self) -> Iterator[bytearray]:
        """Give one to who waits here for it, until the end of the ``with`` block."""
        buffer = self._free.get()
        try:
            if buffer is None:
                buffer = bytearray(self._size)
            yield buffer
        finally:
            self._free.put(buffer)

    def release(self) -> None:
        """Let the memory go of those that nobody has."""
        count = 0
        with contextlib.suppress(queue.Empty):
            while True:
                self._free.get_nowait()
                count += 1
        for _ in range(count):
            self._free.put(None)
