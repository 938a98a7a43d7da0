"""Disks that are small, so that they fill up: a tmpfs each, which is root's to mount."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

CHUNK_BYTES: Final = 1 << 16


@contextmanager
def small_disk(path: Path, *, mebibytes: int) -> Iterator[Path]:
    """Have a disk of that size at *path*, which is made, for the ``with`` block."""
    path.mkdir()
    options = ["-o", f"size={mebibytes}m"]
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def free(path: Path) -> int:
    """Return how many bytes of the disk of *path* are free."""
    info = os.statvfs(path)
    return info.f_bavail * info.f_frsize


def fill_up(path: Path) -> None:
    """Write into the file *path* until its disk takes no more."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(CHUNK_BYTES))
        except OSError:
            assert free(path) == 0
