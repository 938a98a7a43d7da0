"""What an epoll descriptor waits for, and whether its process still has that (kcmp(2)).

A file that is closed stays in epoll as long as another process, or another number, has it open.
CRIU looks for it among the descriptors of the process that has the epoll, by asking the kernel.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

_SYSCALLS: Final = {"x86_64": 312, "aarch64": 272}
KCMP_EPOLL_TFD: Final = 7
"""<linux/kcmp.h>"""

_libc = ctypes.CDLL(None, use_errno=True)


class Target(NamedTuple):
    """One file that epoll waits for, under the number by which it was added."""

    number: int
    inode: int
    offset: int
    """Which one of those that had the number; the number may be another file's by now."""


class _Slot(ctypes.Structure):
    _fields_ = (("efd", ctypes.c_uint), ("tfd", ctypes.c_uint), ("toff", ctypes.c_uint))


def targets(lines: Sequence[Sequence[str]]) -> Iterator[Target]:
    """Yield the targets in the words of each line of a file in fdinfo (proc_pid_fdinfo(5))."""
    counts: dict[int, int] = {}
    for words in lines:
        if words[:1] != ["tfd:"] or len(words) < 2:
            continue
        number = int(words[1])
        inode = next((int(w[4:], 16) for w in words if w.startswith("ino:")), 0)
        yield Target(number, inode, counts.get(number, 0))
        counts[number] = counts.get(number, 0) + 1


def is_closed(base: Path, *, epoll: int, target: Target) -> bool:
    """Whether the process of /proc/PID *base* has *target* under no number any more.

    Where the kernel does not tell (no kcmp) it counts as there.
    """
    pid = int(base.name)
    if _inode(base, str(target.number)) == target.inode:
        return False
    for name in os.listdir(base / "fd"):
        if _inode(base, name) != target.inode:
            continue
        slot = _Slot(efd=epoll, tfd=target.number, toff=target.offset)
        result = _kcmp(pid, int(name), slot)
        if result is None or result == 0:
            return False
    return True


def _inode(base: Path, name: str) -> int:
    try:
        return os.stat(base / "fd" / name).st_ino
    except OSError:
        return -1


def _kcmp(pid: int, number: int, slot: _Slot) -> int | None:
    """Return 0 if the descriptor is what the slot waits for; None if the kernel does not tell."""
    syscall = _SYSCALLS.get(platform.machine())
    if syscall is None:
        return None
    result = _libc.syscall(syscall, pid, pid, KCMP_EPOLL_TFD, number, ctypes.byref(slot))
    return None if result < 0 else int(result)
