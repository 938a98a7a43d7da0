"""A user's command in a container whose memory has come from another pod.

The lower runtime executes it as ``kubectl exec`` would, with what the *new* pod's template gives:
environment, user, capabilities, working directory. The application goes on meanwhile; nothing of
the container's is run by us.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from architect.core.errors import NodeError
from architect.shim.keeper import processes
from architect.shim.keeper.loop import Future, Loop, Task
from architect.shim.records import Record

log = logging.getLogger(__name__)

LIMIT_SECONDS: Final = 60.0
"""Then it is killed: an application that waits for it would wait for ever."""

END_SECONDS: Final = 10.0
"""For the lower runtime, to notice that it was killed."""

MAX_OUTPUT_BYTES: Final = 1024
"""Of its output the last bytes are kept, for an event on the pod."""

_ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
"""The lower runtime's own."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    status: int
    """As a shell says it: 128 plus a signal's number. The lower runtime's own failures are 255."""
    seconds: float
    output: str
    """The end of what it wrote to standard output and standard error."""
    is_late: bool
    """Killed, for it took too long."""


class Children:
    """Processes of ours whose exit status is wanted; the keeper reaps all of its children."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: dict[int, Future[int]] = {}

    def spawn(self, argv: list[str], *, output: int) -> tuple[int, Future[int]]:
        """Start a program and return its pid and, later, its status. Raises OSError."""
        future: Future[int] = Future()
        # It may end before its pid is known here.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
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
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        return pid, future

    def reaped(self, pid: int, status: int) -> None:
        """Learn that child *pid* has ended with a wait status; safe in a signal handler."""
        future = self._waiting.pop(pid, None)
        if future is not None:
            code = os.waitstatus_to_exitcode(status)
            self._loop.call_from_thread(
                lambda: future.set_result(code if code >= 0 else 128 - code)
            )


class Hooks:
    """Runs them, each with a limit of time."""

    def __init__(
        self, loop: Loop, children: Children, *, limit_seconds: float = LIMIT_SECONDS
    ) -> None:
        self._loop = loop
        self._children = children
        self._limit_seconds = limit_seconds

    def run(self, record: Record, argv: Sequence[str]) -> Task[Ended]:
        """Run *argv* in the container and return how it ended. Raises NodeError."""
        return (yield from self.run_command(_exec(record, argv)))

    def run_command(self, command: list[str]) -> Task[Ended]:
        """Run a program of the node and return how it ended. Raises NodeError."""
        started = time.monotonic()
        output = _Output(self._loop)
        try:
            try:
                pid, future = self._children.spawn(command, output=output.write_end)
            except OSError as error:
                raise NodeError(
                    f"cannot run {command[0]}: {error.strerror}", reason="HookNotRun"
                ) from error
            output.spawned()
            is_late = False
            try:
                status = yield self._loop.within(future, self._limit_seconds, what="the command")
            except TimeoutError:
                is_late = True
                # The lower runtime cannot hand on what no process can catch.
                for child in processes.children(pid):
                    os.kill(child, signal.SIGKILL)
                try:
                    status = yield self._loop.within(future, END_SECONDS, what="its end")
                except TimeoutError:
                    os.kill(pid, signal.SIGKILL)
                    status = yield future
            return Ended(
                status=status,
                seconds=time.monotonic() - started,
                output=output.text(),
                is_late=is_late,
            )
        finally:
            output.close()


def told(running: Task[Ended]) -> Task[dict[str, Any]]:
    """Return what the event of a hook tells once it has run, or could not."""
    try:
        ended = yield from running
    except NodeError as error:
        return {"reason": error.reason, "message": str(error)}
    return {
        "status": ended.status,
        "duration_seconds": ended.seconds,
        "message": ended.output,
        "is_late": ended.is_late,
    }


def _exec(record: Record, argv: Sequence[str]) -> list[str]:
    systemd = ["--systemd-cgroup"] if record.systemd_cgroup else []
    return [record.runtime, "--root", record.runc_root, *systemd, "exec", record.id, *argv]


class _Output:
    """The last of what is written into a pipe."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
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
        self._kept = (self._kept + got)[-MAX_OUTPUT_BYTES:]

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
