"""Connections that a killed CRIU has left as it needs them, and nobody else can use.

To read what waits in a connection CRIU puts it into the kernel's repair mode (TCP_REPAIR), in which
the application's own reads fail with EPERM. A CRIU that is killed does not take it back.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterable
from typing import Final

TCP_REPAIR: Final = 19
"""<linux/tcp.h>"""
_PIDFD_GETFD: Final = 438
"""<asm-generic/unistd.h>: the same number on every architecture."""
_libc = ctypes.CDLL(None, use_errno=True)


def mend(pids: Iterable[int]) -> int:
    """Take the connections of *pids* out of repair mode; return how many were in it.

    What is gone meanwhile is left out.
    """
    seen: set[str] = set()
    mended = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(pid)
            try:
                for name in os.listdir(f"/proc/{pid}/fd"):
                    with contextlib.suppress(OSError):
                        target = os.readlink(f"/proc/{pid}/fd/{name}")
                        if target.startswith("socket:[") and target not in seen:
                            seen.add(target)
                            mended += _mend(pidfd, int(name))
            finally:
                os.close(pidfd)
    return mended


def _mend(pidfd: int, number: int) -> bool:
    """Take one of a process's sockets out of repair mode; whether it was in it. Raises OSError."""
    fd = _libc.syscall(_PIDFD_GETFD, pidfd, number, 0)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    with socket.socket(fileno=fd) as found:
        is_tcp = found.family in (socket.AF_INET, socket.AF_INET6)
        if not is_tcp or found.type != socket.SOCK_STREAM:
            return False
        if not found.getsockopt(socket.IPPROTO_TCP, TCP_REPAIR):
            return False
        found.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
        return True
