"""The page cache of single files: written out, dropped, and asked what is still in it.

Standard library only: it runs in nodes too.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
_MAP_FAILED = ctypes.c_void_p(-1).value


def files_below(directory: Path) -> list[Path]:
    """Return the regular files below *directory*."""
    return sorted(p for p in directory.rglob("*") if p.is_file() and not p.is_symlink())


def settle(paths: Iterable[Path]) -> None:
    """Write *paths* to their disk: what is dirty can neither be dropped nor stays quiet."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def drop(paths: Iterable[Path]) -> None:
    """Take *paths* out of the page cache, and nothing else of the machine's."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def cached_bytes(path: Path) -> int:
    """Return how much of *path* is in the page cache. Raises OSError."""
    size = path.stat().st_size
    if size == 0:
        return 0
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Not mmap.mmap: its address is not to be had for a mapping that cannot be written.
        at = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    finally:
        os.close(fd)
    if at == _MAP_FAILED:
        raise _failure(path)
    try:
        pages = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
        present = (ctypes.c_ubyte * pages)()
        if _libc.mincore(at, size, present):
            raise _failure(path)
        return sum(byte & 1 for byte in bytes(present)) * mmap.PAGESIZE
    finally:
        _libc.munmap(at, size)


def _failure(path: Path) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), str(path))
