"""Stops a process of the product where it opens a certain file, without any hook in it.

fanotify(7) has the kernel ask us before a file of one file system is opened; until we answer, the
process waits in the kernel, and can be killed there. What keeper and CRIU open, and in which order,
tells exactly where they are.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

# <linux/fanotify.h>
FAN_CLASS_CONTENT: Final = 0x4
FAN_CLOEXEC: Final = 0x1
FAN_NONBLOCK: Final = 0x2
FAN_UNLIMITED_QUEUE: Final = 0x10
FAN_MARK_ADD: Final = 0x1
FAN_MARK_MOUNT: Final = 0x10
FAN_MARK_FILESYSTEM: Final = 0x100
FAN_OPEN_PERM: Final = 0x10000
FAN_ALLOW: Final = 1
AT_FDCWD: Final = -100
_EVENT: Final = struct.Struct("IBBHQii")
_ANSWER: Final = struct.Struct("iI")

Matches = Callable[[int, str], bool]
"""Whether to stop the process with that pid that opens that path."""


@dataclass
class Held:
    """A process that waits, once it has come."""

    matches: Matches
    pid: int | None = None
    has_come: threading.Event = field(default_factory=threading.Event)
    descriptor: int | None = None
    """By which the kernel is answered."""

    def wait(self, seconds: float) -> bool:
        """Wait until the process has come; whether it has."""
        return self.has_come.wait(seconds)


class Gate:
    """All opens of one file system pass here, or of one mount of it."""

    def __init__(self, mount_point: Path, *, is_mount_alone: bool = False) -> None:
        """Watch the file system at *mount_point*. Raises OSError."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        flags = FAN_CLASS_CONTENT | FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE
        self._fd = self._checked(
            self._libc.fanotify_init(flags, os.O_RDONLY | os.O_LARGEFILE | os.O_CLOEXEC),
            "fanotify_init",
        )
        self._checked(
            self._libc.fanotify_mark(
                self._fd,
                FAN_MARK_ADD | (FAN_MARK_MOUNT if is_mount_alone else FAN_MARK_FILESYSTEM),
                ctypes.c_uint64(FAN_OPEN_PERM),
                AT_FDCWD,
                os.fsencode(mount_point),
            ),
            "fanotify_mark",
        )
        self._lock = threading.Lock()
        self._wanted: list[Held] = []
        self._reader, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="gate", daemon=True)
        self._thread.start()

    @staticmethod
    def _checked(result: int, call: str) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{call}: {os.strerror(number)}")
        return result

    @contextmanager
    def holding(self, matches: Matches) -> Iterator[Held]:
        """Stop the first process that *matches*, until the end of the ``with`` block."""
        held = Held(matches)
        with self._lock:
            self._wanted.append(held)
        try:
            yield held
        finally:
            self.let_go(held)

    def let_go(self, held: Held) -> None:
        """Let it go on, if it has come; it is not stopped any more. Repeated it does nothing."""
        with self._lock:
            if held in self._wanted:
                self._wanted.remove(held)
            descriptor, held.descriptor = held.descriptor, None
        if descriptor is not None:
            self._allow(descriptor)

    def close(self) -> None:
        """Let everybody go on."""
        os.write(self._waker, b"x")
        self._thread.join()
        os.close(self._fd)
        os.close(self._reader)
        os.close(self._waker)

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([self._fd, self._reader], [], [])
            if self._reader in ready:
                return
            with suppress(BlockingIOError):
                data = os.read(self._fd, 65536)
                for at in range(0, len(data), _EVENT.size):
                    *_, descriptor, pid = _EVENT.unpack_from(data, at)
                    if descriptor >= 0 and not self._is_held(descriptor, pid):
                        self._allow(descriptor)

    def _is_held(self, descriptor: int, pid: int) -> bool:
        with self._lock:
            if not self._wanted or pid == os.getpid():
                return False
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            for held in self._wanted:
                if held.pid is None and held.matches(pid, path):
                    held.pid, held.descriptor = pid, descriptor
                    held.has_come.set()
                    return True
        return False

    def _allow(self, descriptor: int) -> None:
        with suppress(FileNotFoundError):  # who asked was killed meanwhile
            os.write(self._fd, _ANSWER.pack(descriptor, FAN_ALLOW))
        os.close(descriptor)
