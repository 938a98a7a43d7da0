"""A volume's stamp: one hash for all that lies there, which changes with whatever is done there.

A volume that is released by one pod and mounted by the next must not have been written in between.
Content is not read, for there may be terabytes: the kernel keeps the time of each change of a file,
its name, its owner or its attributes (``st_ctime``), which nobody can set.

What is on its way to the disk is written out first. A network file system has its times from its
server only then; and memory that moves must not be ahead of its data if the machine dies.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from architect.core.errors import Rejected

MAX_ENTRIES: Final = 1_000_000
"""About 20 s, in which the pod stands still."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """Of one directory and all below it, on its own file system."""

    sha256: str
    entries: int
    """How many files and directories it is of."""


def of(directory: Path) -> Stamp:
    """Return the stamp of *directory* once all of it is on its disk.

    Raises OSError, also for what changes meanwhile; Rejected with reason ``VolumeTooLarge``.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(directory))
        told, entries = hashlib.sha256(), 0
        for line in _lines(fd):
            entries += 1
            if entries > MAX_ENTRIES:
                raise Rejected(
                    f"{directory} has more than {MAX_ENTRIES} files",
                    reason="VolumeTooLarge",
                    hint='its memory does not move; architect.dev/migrate: "false" says so',
                )
            told.update(line)
        return Stamp(sha256=told.hexdigest(), entries=entries)
    finally:
        os.close(fd)


def _lines(root: int) -> Iterator[bytes]:
    """Yield a line for each entry in a fixed order; no link is followed, no mount is entered."""
    device = os.fstat(root).st_dev
    yield _line(b".", os.fstat(root))
    for path, directories, others, fd in os.fwalk(b".", dir_fd=root, onerror=_raise):
        entered = []
        for name in sorted([*directories, *others]):
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            yield _line(os.path.join(path, name), status)
            if stat.S_ISDIR(status.st_mode) and status.st_dev == device:
                entered.append(name)
        directories[:] = entered


def _raise(error: OSError) -> None:
    raise error


def _line(path: bytes, status: os.stat_result) -> bytes:
    numbers = (
        *(status.st_ino, status.st_mode, status.st_nlink, status.st_uid, status.st_gid),
        *(status.st_size, status.st_rdev, status.st_mtime_ns, status.st_ctime_ns),
    )
    return path + b"\0" + " ".join(map(str, numbers)).encode() + b"\n"
