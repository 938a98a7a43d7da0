"""What PID 1 of a container holds open, taken over by the keeper.

``/proc/PID/fd/N`` of a container's process is no harmless name. The container's root can trace its
own PID 1 and put anything at that number: a device node that it could make and not open, a file on
a server that does not answer, one that is cut short under the keeper's eyes. Opened by the keeper,
which is in no container's device cgroup, the first would be the node's disk.

So nothing is opened. The descriptor itself is duplicated (pidfd_getfd(2)), with what its holder may
do with it, and nothing is asked of its file before the kernel's own name for it tells what it is.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import stat
from typing import Final

from architect.core.errors import NodeError

SYS_PIDFD_GETFD: Final = 438
"""The same on every architecture. Since Linux 5.6."""

PIPE: Final = re.compile(r"pipe:\[\d+\]")
"""What a pipe that has no name is called; what has one is called by its path, from ``/`` on."""

STDIO_CHANGED: Final = "StdioChanged"

_libc = ctypes.CDLL(None, use_errno=True)


def take(pid: int, number: int) -> int:
    """Return a duplicate of descriptor *number* of process *pid*. Raises OSError."""
    process = os.pidfd_open(pid)
    try:
        fd = _libc.syscall(SYS_PIDFD_GETFD, process, number, 0)
    finally:
        os.close(process)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(fd)


def name_of(fd: int) -> str:
    """Return what the kernel calls a file: ``pipe:[7]``, ``/memfd:x (deleted)``, a path."""
    return os.readlink(f"/proc/self/fd/{fd}")


def is_memory(fd: int) -> bool:
    """Whether a file is memfd_create(2)'s: on the kernel's own tmpfs, where nobody has names."""
    found = os.fstat(fd)
    return stat.S_ISREG(found.st_mode) and found.st_dev == _memory_device()


def take_pipe(pid: int, number: int) -> int:
    """Return a duplicate of the end of a pipe that init has as stdin, stdout or stderr.

    Raises NodeError with reason ``StdioChanged`` if it is none (any more); OSError.
    """
    fd = take(pid, number)
    if PIPE.fullmatch(name := name_of(fd)):
        return fd
    os.close(fd)
    raise NodeError(
        f"descriptor {number} of init {pid} was a pipe and is {name!r:.200} now",
        reason=STDIO_CHANGED,
        hint="a process of the container has changed its init: nothing is opened for it",
    )


@functools.cache
def _memory_device() -> int:
    fd = os.memfd_create("architect-device")
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)
