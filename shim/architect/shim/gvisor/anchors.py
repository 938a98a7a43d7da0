"""The processes that stand for containers towards the engine: ``shim/native/anchor.c``."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from architect.core.errors import NodeError
from architect.shim import installation, procfs

_READY_FD: Final = 3
_PIDFD_GETFD: Final = 438
"""<asm-generic/unistd.h>; Python has no function for it."""


def spawn(waiter: Sequence[str], *, has_terminal: bool) -> tuple[int, int]:
    """Start an anchor that will run *waiter*; return its process id and when it started.

    It has our stdio; with *has_terminal* none: what is there then is the engine's, which reads it
    to its end. Raises NodeError or OSError.
    """
    program = str(installation.program("architect-anchor"))
    reading, writing = os.pipe()
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = []
    if has_terminal:
        for fd in range(3):
            actions.append((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0))
    actions.append((os.POSIX_SPAWN_DUP2, writing, _READY_FD))
    try:
        pid = os.posix_spawn(program, [program, *waiter], os.environ, file_actions=actions)
        os.close(writing)
        writing = -1
        os.read(reading, 1)  # its end: it listens, or it has died
    finally:
        for fd in (reading, writing):
            if fd >= 0:
                os.close(fd)
    ticks = start_ticks(pid)
    if ticks is None:
        raise NodeError(f"{program} has ended at once", reason="BrokenInstallation")
    return pid, ticks


def start_ticks(pid: int) -> int | None:
    """Return when process *pid* started; None if it does not run."""
    try:
        found = procfs.stat_of(Path(f"/proc/{pid}/stat").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if found[0] in "ZX" else int(found[19])


def send(pid: int, ticks: int, number: int) -> bool:
    """Send a signal to the anchor unless it has ended; whether it was there."""
    # Never to 0 or -1, which are a group and everybody.
    if pid <= 1 or start_ticks(pid) != ticks:
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def started(pid: int, ticks: int) -> None:
    """Tell the anchor that its container runs."""
    send(pid, ticks, signal.SIGUSR1)


def stdio(pid: int) -> list[int]:
    """Return duplicates of the stdio that anchor *pid* holds. Raises OSError."""
    import ctypes  # for this alone, and `kill` is not to pay for it

    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(pid)
    try:
        found: list[int] = []
        for number in range(3):
            fd = libc.syscall(_PIDFD_GETFD, process, number, 0)
            if fd < 0:
                code = ctypes.get_errno()
                raise OSError(code, f"stdio of process {pid}: {os.strerror(code)}")
            found.append(fd)
        return found
    finally:
        os.close(process)
