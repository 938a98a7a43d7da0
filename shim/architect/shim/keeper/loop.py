"""A single-threaded event loop: descriptors, timers, and tasks written as generators.

asyncio would do the same and cost 9 MB of memory per node (measured with Python 3.13), a third of
what the keeper may use. A task is a generator that yields :class:`Future` and is resumed with its
result, or with its exception raised at the ``yield``; it reads like straight code, and no other
task runs between two yields, so state needs no locks.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import selectors
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from architect.core.errors import ArchitectError

T = TypeVar("T")
Task = Generator["Future[Any]", Any, T]
"""A generator that yields futures and returns *T*."""

log = logging.getLogger(__name__)

TIMERS_SWEPT = 256
"""With so many timers, cancelled ones are looked for; beyond, whenever their number has doubled."""


class Future(Generic[T]):
    """A result that comes later, once."""

    def __init__(self) -> None:
        self._done = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Future[T]], None]] = []

    @property
    def is_done(self) -> bool:
        """Whether a result or an error is there."""
        return self._done

    def set_result(self, value: T) -> None:
        """Complete with *value*; later results are ignored (a time-out may have come first)."""
        self._complete(value, None)

    def set_error(self, error: BaseException) -> None:
        """Complete with *error*; later results are ignored."""
        self._complete(None, error)

    def _complete(self, value: T | None, error: BaseException | None) -> None:
        if self._done:
            return
        self._done, self._value, self._error = True, value, error
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def result(self) -> T:
        """Return the value or raise the error. Call it only when done."""
        assert self._done
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # done without error: it is a T

    def when_done(self, callback: Callable[[Future[T]], None]) -> None:
        """Call *callback* with this future when it is done, at once if it is."""
        if self._done:
            callback(self)
        else:
            self._callbacks.append(callback)


class Timer:
    """A call that :meth:`Loop.call_later` has promised."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Never call it, and let go of what it holds."""
        self.callback = None


class Loop:
    """Runs until :meth:`stop`."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._sweep_at = TIMERS_SWEPT
        self._ready: deque[Callable[[], None]] = deque()
        self._numbers = itertools.count()
        self._stopped = False
        self.last_turn_seconds = 0.0
        """How long the turn before this one kept descriptors waiting."""
        self._served_seconds = 0.0
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.watch(self._wake_read, self._drain_wakeups)
        self._from_threads: deque[Callable[[], None]] = deque()

    # Descriptors

    def watch(
        self, fd: int, callback: Callable[[], None], *, write: bool = False, read: bool = True
    ) -> None:
        """Call *callback* whenever *fd* can be read (or written, with *write*).

        Without both, as while a peer must wait, it is forgotten.
        """
        events = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
        if not events:
            self.unwatch(fd)
            return
        try:
            self._selector.modify(fd, events, callback)
        except KeyError:
            self._selector.register(fd, events, callback)

    def unwatch(self, fd: int) -> None:
        """Forget *fd*; unknown descriptors are ignored. Call it before closing."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(fd)

    # Time

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call *callback* once, *seconds* from now, unless the timer is cancelled before."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), timer))
        if len(self._timers) >= self._sweep_at:
            # Most bounds are cancelled long before they are due; without this they would pile up.
            self._timers = [entry for entry in self._timers if entry[2].callback is not None]
            heapq.heapify(self._timers)
            self._sweep_at = max(TIMERS_SWEPT, 2 * len(self._timers))
        return timer

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call *callback* in the next turn of the loop."""
        self._ready.append(callback)

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        """As :meth:`call_soon`, from any thread."""
        self._from_threads.append(callback)
        with contextlib.suppress(BlockingIOError):  # the pipe is full of wake-ups already
            os.write(self._wake_write, b"x")

    def sleep(self, seconds: float) -> Future[None]:
        """Return a future that is done after *seconds*."""
        future: Future[None] = Future()
        self.call_later(seconds, lambda: future.set_result(None))
        return future

    def within(self, future: Future[T], seconds: float, *, what: str) -> Future[T]:
        """Return a future as *future*, but failing with TimeoutError after *seconds*."""
        bounded: Future[T] = Future()

        def copy(done: Future[T]) -> None:
            timer.cancel()
            try:
                bounded.set_result(done.result())
            except BaseException as error:  # noqa: BLE001  # handed on, not swallowed
                bounded.set_error(error)

        timer = self.call_later(
            seconds, lambda: bounded.set_error(TimeoutError(f"{what}: no result in {seconds} s"))
        )
        future.when_done(copy)
        return bounded

    # Tasks

    def spawn(self, task: Task[T], *, name: str) -> Future[T]:
        """Run *task* up to its first ``yield`` now, then as its futures come; return its result.

        It begins at once so that a state it changes first is changed when this returns.
        """
        outcome: Future[T] = Future()
        self._step(task, outcome, None, name)
        return outcome

    def _step(
        self, task: Task[T], outcome: Future[T], waited: Future[Any] | None, name: str
    ) -> None:
        try:
            if waited is None:
                following = next(task)
            else:
                try:
                    value = waited.result()
                except BaseException as error:  # noqa: BLE001  # raised inside the task
                    following = task.throw(error)
                else:
                    following = task.send(value)
        except StopIteration as stop:
            outcome.set_result(stop.value)
        except (ArchitectError, OSError) as error:
            outcome.set_error(error)
        except Exception as error:  # one pod's defect must not stop the node's keeper
            log.exception("task %s ended by a defect", name)
            outcome.set_error(error)
        else:
            following.when_done(
                lambda done: self.call_soon(lambda: self._step(task, outcome, done, name))
            )

    # Running

    def stop(self) -> None:
        """Return from :meth:`run` after this turn."""
        self._stopped = True

    def run(self) -> None:
        """Serve descriptors, timers and tasks until :meth:`stop`."""
        while not self._stopped:
            self.run_once()

    def wakeup_descriptor(self) -> int:
        """Return a non-blocking descriptor whose writing makes the loop turn once."""
        return self._wake_write

    def run_once(self, *, at_most_seconds: float | None = None) -> None:
        """Wait for something to do and do it."""
        began = time.monotonic()
        for _ in range(len(self._ready)):
            self._guard(self._ready.popleft())
        timeout = at_most_seconds
        if self._timers:
            until = max(0.0, self._timers[0][0] - time.monotonic())
            timeout = until if timeout is None else min(timeout, until)
        if self._ready or self._stopped:
            timeout = 0.0
        busy_seconds = time.monotonic() - began
        ready = self._selector.select(timeout)
        self.last_turn_seconds = self._served_seconds + busy_seconds
        began = time.monotonic()
        for key, _ in ready:
            self._guard(key.data)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                self._guard(timer.callback)
        self._served_seconds = time.monotonic() - began

    @staticmethod
    def _guard(callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:  # one pod's defect must not stop the node's keeper
            log.exception("callback ended by a defect")

    def _drain_wakeups(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        while self._from_threads:
            self._ready.append(self._from_threads.popleft())

    def close(self) -> None:
        """Release the loop's own descriptors."""
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)


def done_at_once(work: Callable[[], T]) -> Future[T]:
    """Return the result of what needs no waiting; an OSError is its error, all else is raised."""
    future: Future[T] = Future()
    try:
        future.set_result(work())
    except OSError as error:
        future.set_error(error)
    return future


def log_failure(done: Future[Any]) -> None:
    """Log what went wrong where nobody waits for it."""
    try:
        done.result()
    except (ArchitectError, OSError) as error:
        log.error("%s", error)
