"""SysV semaphores, message queues and unattached shared memory at a restore.

An image has all of the IPC namespace, since CRIU cannot know whose they are, and its restore makes
all of it anew, with the same ids. The namespace is the pod's and outlives the sleep, so there they
are still. They give way to the image, whose values are the right ones: what a process has changed
with SEM_UNDO was undone when it was dumped. Only the pod's first container restores them; the
others find what that one uses already.

Segments that are attached are :mod:`.sysvshm`'s.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from architect.core.errors import NodeError
from architect.shim.keeper import sysvshm
from architect.shim.keeper.sysvshm import IPC_RMID

_libc = ctypes.CDLL(None, use_errno=True)

_SAVED: Final = {"sem": "ipcns-sem-*.img", "msg": "ipcns-msg-*.img", "shm": "ipcns-shm-*.img"}
"""What of CRIU's images has them, by the name of the file in /proc/sysvipc."""

_REMOVE: Final[dict[str, Callable[[int], int]]] = {
    "sem": lambda identity: int(_libc.semctl(identity, 0, IPC_RMID)),
    "msg": lambda identity: int(_libc.msgctl(identity, IPC_RMID, None)),
    "shm": lambda identity: int(_libc.shmctl(identity, IPC_RMID, None)),
}
"""By the name of the file in /proc/sysvipc."""

_ATTACHMENTS: Final = 6
"""Column of /proc/sysvipc/shm."""


def make_way(init_pid: int, image: Path, *, has_company: bool) -> None:
    """Let *image* be restored in the IPC namespace of *init_pid*.

    *has_company*: another container of the pod runs, and uses what is there. Raises NodeError,
    OSError.
    """
    if os.stat(f"/proc/{init_pid}/ns/ipc").st_ino == os.stat("/proc/self/ns/ipc").st_ino:
        return  # the node's own (hostIPC), of which CRIU saves nothing
    if has_company:
        # CRIU takes an image that is missing for one that is empty.
        for kind in ("sem", "msg"):
            for path in image.glob(_SAVED[kind]):
                path.unlink()
    saved = [kind for kind, pattern in _SAVED.items() if any(image.glob(pattern))]
    with sysvshm.namespace(init_pid):
        for kind in saved:
            for fields in _listed(kind):
                if kind != "shm" or fields[_ATTACHMENTS] == "0":
                    _remove(kind, int(fields[1]))


def _listed(kind: str) -> list[list[str]]:
    """Return the fields of each line of a file in /proc/sysvipc (proc_sysvipc(5))."""
    try:
        lines = Path("/proc/sysvipc", kind).read_text().splitlines()[1:]
    except FileNotFoundError:
        return []  # a kernel without them
    return [line.split() for line in lines]


def _remove(kind: str, identity: int) -> None:
    if _REMOVE[kind](identity):
        code = ctypes.get_errno()
        raise NodeError(
            f"cannot remove the pod's {kind} {identity}: {os.strerror(code)}",
            reason="SysvIpc",
            errno=code,
        )
