"""How fast uploads are, for whoever plans the next ones."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from architect.daemon.spot.learning import LEAST_BYTES, Measure

WINDOW_SECONDS: Final = 1.0
WINDOW_BYTES: Final = 64 * 1024**2
"""A sample is of so much time and so many bytes at least, since what has not arrived at its end
does not count; or of all that there was, when nothing is being sent any more."""

SMALL_BYTES: Final = 256 * 1024
"""An object up to this size tells of the store's answer and not of its bytes."""

Take = Callable[[Measure, float, int], None]
"""A measure, its seconds, its bytes: :meth:`architect.daemon.spot.rates.Known.take`."""


class Meter:
    """Of all uploads together. Safe to use from several threads."""

    def __init__(
        self,
        take: Take,
        *,
        rate: Callable[[float], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; *rate* is told each sample of bytes sent in a second as well."""
        self._take = take
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._under_way = 0
        self._since = 0.0
        self._busy_seconds = 0.0
        self._sent_bytes = 0
        self._worked: dict[Measure, tuple[float, int]] = {}

    @contextlib.contextmanager
    def sending(self, size: int) -> Iterator[None]:
        """While an object of *size* bytes is being sent. One that fails tells of no speed."""
        if size <= SMALL_BYTES:
            began = self._clock()
            yield
            self._take(Measure.OBJECT, self._clock() - began, 0)
            return
        with self._lock:
            self._pass(+1)
        has_arrived = False
        try:
            yield
            has_arrived = True
        finally:
            with self._lock:
                self._pass(-1)
                sample = self._count(size) if has_arrived else None
                if not has_arrived:
                    self._drop()
        if sample is not None:
            self._take(Measure.UPLOAD, *sample)
            self._rate(sample[1] / sample[0])

    def sealed(self, core_seconds: float, size: int) -> None:
        """Count *size* bytes that took one core so long to be sealed."""
        self._has_worked(Measure.SEAL, core_seconds, size)

    def hashed(self, core_seconds: float, size: int) -> None:
        """Count *size* bytes that took one core so long to be hashed."""
        self._has_worked(Measure.HASH, core_seconds, size)

    def _has_worked(self, measure: Measure, core_seconds: float, size: int) -> None:
        with self._lock:
            seconds, total = self._worked.pop(measure, (0.0, 0))
            sample = seconds + core_seconds, total + size
            if sample[1] < WINDOW_BYTES:
                self._worked[measure] = sample
                return
        self._take(measure, *sample)

    def _pass(self, change: int) -> None:
        """Let time pass until now, when one more or one less is under way."""
        now = self._clock()
        if self._under_way:
            self._busy_seconds += now - self._since
        self._since = now
        self._under_way += change

    def _count(self, size: int) -> tuple[float, int] | None:
        """Return a sample if there is one."""
        self._sent_bytes += size
        is_window = self._busy_seconds >= WINDOW_SECONDS and self._sent_bytes >= WINDOW_BYTES
        is_all = not self._under_way and self._sent_bytes >= LEAST_BYTES
        if not (is_window or is_all) or not self._busy_seconds > 0:
            return None
        sample = self._busy_seconds, self._sent_bytes
        self._drop()
        return sample

    def _drop(self) -> None:
        self._busy_seconds, self._sent_bytes = 0.0, 0
