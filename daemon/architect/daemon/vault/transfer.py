"""What a transfer to and from the store needs: many shards at once, and patience with the store."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, Protocol, TypeVar

from architect.core.errors import Rejected, Retryable
from architect.kube.watch import Backoff
from architect.objectstore.errors import NO_CREDENTIALS

T = TypeVar("T")

SHARD_SECONDS: Final = 60.0
"""For one attempt at one shard: 140 kB/s."""


class Bucket(Protocol):
    """The store, as far as a transfer needs it: see :class:`architect.daemon.vault.store.Store`."""

    def put(
        self,
        key: str,
        body: bytes | bytearray,
        *,
        is_new: bool = False,
        timeout_seconds: float,
    ) -> None:
        """Write an object."""

    def get(self, key: str, *, most_bytes: int, timeout_seconds: float) -> bytes:
        """Return an object."""


AGAIN_FIRST_SECONDS: Final = 0.2
AGAIN_MAX_SECONDS: Final = 5.0
AGAIN_HURRIED_SECONDS: Final = 1.0
"""Between two tries: at first, at most, and at most in a hurry."""


class Patience:
    """Tries again for as long as something has worked within the last *seconds*.

    While *is_hurried* a store that comes back is found within a second or two. That there are no
    credentials is waited out as well, then and where there were some before (*is_known*): a
    metadata service that does not renew them just now may do so at the next try.
    """

    def __init__(
        self,
        seconds: float,
        *,
        is_hurried: Callable[[], bool] = lambda: False,
        is_known: Callable[[], bool] = lambda: False,
    ) -> None:
        self._seconds = seconds
        self._is_hurried = is_hurried
        self._is_known = is_known
        self._worked_at = time.monotonic()

    def with_(self, work: Callable[[], T], ended: threading.Event) -> T:
        """Return what *work* does. Raises what cannot be retried, and the last failure."""
        backoff = Backoff(first_seconds=AGAIN_FIRST_SECONDS, max_seconds=AGAIN_MAX_SECONDS)
        while True:
            try:
                result = work()
            except (Retryable, Rejected) as error:
                is_over = time.monotonic() - self._worked_at > self._seconds
                if ended.is_set() or is_over or not self._may_pass(error):
                    raise
                self._pause(backoff.next(), ended)
            else:
                self._worked_at = time.monotonic()
                return result

    def _may_pass(self, error: Retryable | Rejected) -> bool:
        if isinstance(error, Retryable):
            return True
        return error.reason == NO_CREDENTIALS and (self._is_hurried() or self._is_known())

    def _pause(self, seconds: float, ended: threading.Event) -> None:
        # In steps: the hurry may begin meanwhile.
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if ended.wait(min(left, AGAIN_HURRIED_SECONDS)) or self._is_hurried():
                return


def together(
    work: Callable[[int], None],
    numbers: Iterable[int],
    *,
    ended: threading.Event,
    streams: int,
    name: str,
) -> None:
    """Do *work* for all numbers, *streams* at once. The first failure ends all, and is raised."""
    pool = concurrent.futures.ThreadPoolExecutor(streams, name)
    try:
        for job in concurrent.futures.as_completed([pool.submit(work, n) for n in numbers]):
            job.result()
    finally:
        ended.set()
        pool.shutdown(wait=True, cancel_futures=True)
