"""What the lab is doing and how long it has been at it, one line per event on standard error."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO


class Progress:
    """Lines with the seconds since the start. Safe to use from several threads."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._started = time.monotonic()
        self._lock = threading.Lock()

    @property
    def elapsed_seconds(self) -> float:
        return time.monotonic() - self._started

    def say(self, text: str) -> None:
        """Write one line."""
        if self._quiet:
            return
        with self._lock:
            print(f"[{self.elapsed_seconds:6.1f}s] {text}", file=self._stream, flush=True)

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Say that a step begins, and at its end how long it took."""
        self.say(f"{text} …")
        started = time.monotonic()
        try:
            yield
        except BaseException:
            self.say(f"{text}: failed after {time.monotonic() - started:.1f}s")
            raise
        self.say(f"{text}: done in {time.monotonic() - started:.1f}s")


SILENT = Progress(quiet=True)
