"""Programs that the keeper starts and waits for, while its loop goes on.

Each has a limit of time; of its output the end is kept.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from architect.core.errors import NodeError
from architect.shim.keeper import processes
from architect.shim.keeper.loop import Future, Loop, Task

log = logging.getLogger(__name__)

END_SECONDS: Final = 10.0
"""For a program that has children, to notice that they were killed."""

MAX_OUTPUT_BYTES: Final = 1024
"""Of its output so many last bytes are kept, for an event on the pod, unless more are wanted."""

_ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
"""A shell's own, for root."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a program ended."""

    status: int
    """As a shell says it: 128 plus a signal's number."""
    seconds: float
    output: str
    """The end of what it wrote to standard output and standard error."""
    is_late: bool
    """Killed, for it took too long."""


def reap(told: Callable[[int, int], None]) -> None:
    """Reap every child that has ended, and tell its pid and wait status; for a signal handler."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        told(pid, status)


class Children:
    """Processes of ours whose exit status is wanted; the keeper reaps all of its children."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: dict[int, Future[int]] = {}
        self._early: dict[int, int] | None = None
        """Wait statuses that come while a child is started, whose pid is not known here yet."""

    def spawn(self, argv: list[str], *, output: int) -> tuple[int, Future[int]]:
        """Start a program and return its pid and, later, its status. Raises OSError."""
        future: Future[int] = Future()
        early: dict[int, int] = {}
        self._early = early
        try:
            pid = os.posix_spawn(
                argv[0],
                argv,
                _ENVIRONMENT,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ],
                setsigmask=(),
            )
            self._waiting[pid] = future
        finally:
            self._early = None
        if pid in early:
            self.reaped(pid, early[pid])
        return pid, future

    def kill(self, pid: int) -> None:
        """Kill a child. One that was reaped has no pid: another process may have it by now."""
        if pid in self._waiting:
            os.kill(pid, signal.SIGKILL)

    def reaped(self, pid: int, status: int) -> None:
        """Learn that child *pid* has ended with a wait status; safe in a signal handler."""
        if self._early is not None and pid not in self._waiting:
            self._early[pid] = status
        elif (future := self._waiting.pop(pid, None)) is not None:
            code = os.waitstatus_to_exitcode(status)
            self._loop.call_from_thread(
                lambda: future.set_result(code if code >= 0 else 128 - code)
            )


class Programs:
    """Runs them."""

    def __init__(self, loop: Loop, children: Children) -> None:
        self._loop = loop
        self._children = children

    def run(
        self,
        argv: list[str],
        *,
        limit_seconds: float,
        reason: str,
        kept_bytes: int = MAX_OUTPUT_BYTES,
    ) -> Task[Ended]:
        """Run *argv* and return how it ended; what takes too long is killed, its children first.

        Raises NodeError with *reason* if it cannot be started.
        """
        started = time.monotonic()
        output = _Output(self._loop, kept_bytes)
        try:
            try:
                pid, future = self._children.spawn(argv, output=output.write_end)
            except OSError as error:
                raise NodeError(f"cannot run {argv[0]}: {error.strerror}", reason=reason) from error
            output.spawned()
            is_late = False
            try:
                status = yield self._loop.within(future, limit_seconds, what=argv[0])
            except TimeoutError:
                is_late = True
                # Who waits for a child cannot hand on what no process can catch.
                below = processes.children(pid)
                for each in below:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(each, signal.SIGKILL)
                if not below:
                    self._children.kill(pid)
                try:
                    status = yield self._loop.within(future, END_SECONDS, what="its end")
                except TimeoutError:
                    self._children.kill(pid)
                    status = yield future
            return Ended(
                status=status,
                seconds=time.monotonic() - started,
                output=output.text(),
                is_late=is_late,
            )
        finally:
            output.close()


class _Output:
    """The last of what is written into a pipe."""

    def __init__(self, loop: Loop, kept_bytes: int) -> None:
        self._loop = loop
        self._kept_bytes = kept_bytes
        self._read_end, self.write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._read_end, False)
        self._kept = b""
        loop.watch(self._read_end, self._take)

    def spawned(self) -> None:
        """Close our copy of the end that the command writes to."""
        os.close(self.write_end)
        self.write_end = -1

    def _take(self) -> None:
        try:
            got = os.read(self._read_end, 65536)
        except BlockingIOError:
            return
        if not got:
            self._loop.unwatch(self._read_end)
        self._kept = (self._kept + got)[-self._kept_bytes :]

    def text(self) -> str:
        """Return what was written until now."""
        self._take()
        return self._kept.decode(errors="replace").strip()

    def close(self) -> None:
        """Let go of the pipe; what the command left running can write no more."""
        self._loop.unwatch(self._read_end)
        os.close(self._read_end)
        if self.write_end >= 0:
            os.close(self.write_end)
