"""SysV shared memory of a sleeping tree.

CRIU saves the content of attached segments in the image and makes them anew at restore, with the
same ids and keys, in the container's IPC namespace. So they must be removed there once the tree is
dumped; their content would stay in memory otherwise, and the restore would meet them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from architect.core.errors import NodeError, Rejected
from architect.shim import procfs

IPC_RMID: Final = 0
CLONE_NEWIPC: Final = 0x08000000
"""<linux/sched.h>"""

_libc = ctypes.CDLL(None, use_errno=True)


def attached(pids: Iterable[int]) -> Counter[int]:
    """Return how often each segment id is attached by *pids*.

    The kernel shows a segment in ``maps`` as the file ``/SYSVkkkkkkkk`` whose inode is its id.
    """
    found: Counter[int] = Counter()
    for pid in pids:
        try:
            raw = Path(f"/proc/{pid}/maps").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"/SYSV" in raw:
            found.update(attached_in(raw))
    return found


def attached_in(maps: bytes) -> Iterator[int]:
    """Yield the id of each segment that a ``maps`` shows. Pure."""
    for line in procfs.lines_of(maps):
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[5].startswith("/SYSV") and fields[2] == "00000000":
            yield int(fields[4])


def refuse_shared(init_pid: int, own: Counter[int]) -> None:
    """Raise Rejected if somebody besides the tree is attached to one of its segments."""
    if not own:
        return
    with namespace(init_pid):
        total = _attachments()
    for identity, count in own.items():
        if total.get(identity, count) > count:
            raise Rejected(
                f"shared memory segment {identity} is attached {total[identity]} times, "
                f"{count} of them by the application",
                reason="SharedSysV",
                hint="another container or an exec session uses it; it cannot be moved to disk",
            )


def remove(init_pid: int, own: Counter[int]) -> None:
    """Remove the dumped segments from the container's IPC namespace. Raises NodeError."""
    if not own:
        return
    with namespace(init_pid):
        present = _attachments()
        for identity in own:
            if identity in present and _libc.shmctl(identity, IPC_RMID, None):
                code = ctypes.get_errno()
                raise NodeError(
                    f"cannot remove shared memory segment {identity}: {os.strerror(code)}",
                    reason="SharedSysV",
                    errno=code,
                )


def attachments(init_pid: int) -> dict[int, int]:
    """Return how often each segment of the IPC namespace of *init_pid* is attached."""
    with namespace(init_pid):
        return _attachments()


def _attachments() -> dict[int, int]:
    """Segment id to number of attachments in our current IPC namespace (proc_sysvipc_shm(5))."""
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return {int(fields[1]): int(fields[6]) for fields in map(str.split, lines)}


@contextlib.contextmanager
def namespace(pid: int) -> Iterator[None]:
    """Be in the IPC namespace of *pid* inside the block. Raises OSError."""
    own = os.open("/proc/thread-self/ns/ipc", os.O_RDONLY | os.O_CLOEXEC)
    try:
        other = os.open(f"/proc/{pid}/ns/ipc", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(other)
            try:
                yield
            finally:
                _setns(own)
        finally:
            os.close(other)
    finally:
        os.close(own)


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWIPC):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "setns")
