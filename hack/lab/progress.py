"""What the lab is doing and how long it has been at it, one line per event on standard error."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

HEARTBEAT_SECONDS = 30.0
"""How long a step may be silent: a build of ten minutes should not look like one that hangs."""


class Progress:
    """Lines with the seconds since the start. Safe to use from several threads."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        quiet: bool = False,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._heartbeat_seconds = heartbeat_seconds
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
    def step(self, text: str, *, takes: str = "") -> Iterator[None]:
        """Say that a step begins, now and then that it goes on, and at its end how long it took.

        *takes* tells the reader before how long that will be.
        """
        self.say(f"{text}{f' ({takes})' if takes else ''} …")
        started = time.monotonic()
        try:
            with self._heartbeat(text, started):
                yield
        except BaseException:
            self.say(f"{text}: failed after {spell(time.monotonic() - started)}")
            raise
        self.say(f"{text}: done in {spell(time.monotonic() - started)}")

    @contextlib.contextmanager
    def _heartbeat(self, text: str, started: float) -> Iterator[None]:
        if self._quiet:
            yield
            return
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(self._heartbeat_seconds):
                self.say(f"… still {text} ({spell(time.monotonic() - started)})")

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def spell(seconds: float) -> str:
    """Return a duration as people say it: ``7.3 s``, ``2 min 30 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s"


SILENT = Progress(quiet=True)
