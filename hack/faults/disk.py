"""The disk of the images: a file system of its own that can be filled, stalled, broken and cut off.

It is an ext4 in a file behind a loop device. What is in the file at a moment is what is on the disk
then; what the kernel has not written yet is not, as when the power fails.
"""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from faults.errors import FaultError

MEBIBYTES: Final = 640
"""The keeper leaves 256 MiB free; the rest is for some images."""
BLOCK: Final = 1 << 20
COPIES: Final = 20
"""A keeper that removes an image in the background writes for a second or two."""


class Disk:
    """A mounted disk."""

    def __init__(self, file: Path, mount_point: Path) -> None:
        """Mount the disk in *file*, which is made if it is not there. Raises CalledProcessError."""
        self.file = file
        self.mount_point = mount_point
        if not file.exists():
            with open(file, "wb") as made:
                made.truncate(MEBIBYTES << 20)
            _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0", str(file))
        mount_point.mkdir(exist_ok=True)
        self.device = _run("losetup", "--find", "--show", str(file)).strip()
        try:
            _run("mount", "-o", "errors=remount-ro", self.device, str(mount_point))
        except BaseException:
            self._detach()
            raise

    def close(self) -> None:
        """Unmount it."""
        _run("umount", "--lazy", str(self.mount_point))
        self._detach()

    def _detach(self) -> None:
        # Later, if somebody still has it open.
        _run("losetup", "--detach", self.device)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Have no byte left on it."""
        filler = self.mount_point / "filler"
        fd = os.open(filler, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size, step = 0, 64 << 20
            while step >= 4096:
                try:
                    os.posix_fallocate(fd, size, step)
                    size += step
                except OSError:
                    step //= 2
            yield
        finally:
            os.close(fd)
            filler.unlink()

    @contextmanager
    def stalled(self, seconds: float) -> Iterator[None]:
        """Have nothing written to it for *seconds*, which the ``with`` block need not last."""
        _run("fsfreeze", "--freeze", str(self.mount_point))
        thaw = threading.Timer(seconds, _run, ["fsfreeze", "--unfreeze", str(self.mount_point)])
        thaw.start()
        try:
            yield
        finally:
            thaw.join()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Have it take no changes."""
        _run("mount", "-o", "remount,ro", str(self.mount_point))
        try:
            yield
        finally:
            _run("mount", "-o", "remount,rw", str(self.mount_point))

    def break_down(self) -> None:
        """Have the file system find an error of its disk: it is read-only from then on."""
        name = Path(self.device).name
        Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("a fault\n")

    def copy(self, to: Path) -> None:
        """Copy what is on the disk at this moment. Raises FaultError if it does not rest for one.

        A copy takes its time, and the kernel may write meanwhile: half of a change is on no disk.
        One that is as the disk is once it is made is what was there at that moment.
        """
        for _ in range(COPIES):
            with open(self.file, "rb") as disk, open(to, "w+b") as copy:
                copy.truncate(os.fstat(disk.fileno()).st_size)
                for at, data in _written(disk):
                    copy.seek(at)
                    copy.write(data)
                copy.flush()
                if all(os.pread(copy.fileno(), len(d), at) == d for at, d in _written(disk)):
                    return
        raise FaultError(f"{self.file} is written to all the time")


def _run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def _written(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield what is in *file* but for its holes, as it is when it is reached, and where."""
    fd, at = file.fileno(), 0
    while True:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no more
                return
            raise
        end = os.lseek(fd, at, os.SEEK_HOLE)
        while at < end:
            data = os.pread(fd, min(BLOCK, end - at), at)
            yield at, data
            at += len(data)


def cut_in_half(file: Path) -> None:
    """Take the last half of *file* away."""
    os.truncate(file, file.stat().st_size // 2)


def overwrite(file: Path) -> None:
    """Overwrite *file* with what has no meaning."""
    size = file.stat().st_size
    with open(file, "r+b") as opened:
        opened.write(os.urandom(size))
