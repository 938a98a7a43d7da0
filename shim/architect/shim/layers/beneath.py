"""openat2(2): open what lies below a directory, and nothing else.

Symbolic links are not followed, mounts not crossed (bind mounts included), and the directory is not
left, by the kernel and at once: whoever changes the tree meanwhile gains nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

SYS_OPENAT2: Final = 437
"""The same on every architecture. Since Linux 5.6."""
NO_XDEV: Final = 0x01
RESOLVE: Final = NO_XDEV | 0x02 | 0x04 | 0x08
"""Beside it NO_MAGICLINKS, NO_SYMLINKS, BENEATH of <linux/openat2.h>."""

_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    """``struct open_how``."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_below(directory: int, name: bytes, flags: int, *, resolve: int = RESOLVE) -> int:
    """Open *name* below *directory*; creates nothing. *resolve*: what is refused on the way.

    A symbolic link can be opened as such with ``O_PATH | O_NOFOLLOW``. Raises OSError: EXDEV for a
    mount point or what lies beyond, ELOOP for a symbolic link.
    """
    how = _How(flags=flags | os.O_CLOEXEC, resolve=resolve)
    fd = _libc.syscall(SYS_OPENAT2, directory, name, ctypes.byref(how), ctypes.sizeof(how))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)
    return int(fd)


def is_mount_point(directory: int, name: bytes) -> bool:
    """Whether something is mounted on *name*. Raises OSError if there is no such name.

    unlink(2) and rmdir(2) refuse a mount point of the caller's own mount namespace only; of
    another's, as of the container's, they remove it and what is mounted there.
    """
    try:
        os.close(open_below(directory, name, os.O_PATH | os.O_NOFOLLOW))
    except OSError as error:
        if error.errno == errno.EXDEV:
            return True
        raise
    return False
