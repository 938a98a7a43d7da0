"""Files that are open or mapped and have no name any more: which of them an image brings back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from architect.shim.inspection.facts import Removed
from architect.shim.inspection.findings import shown

DELETED: Final = " (deleted)"
"""How the kernel marks the name of what has none any more."""

_MEMORY: Final = (
    "/memfd:",
    "/SYSV",
    "/dev/zero (deleted)",
    "/[aio]",
    "/anon_hugepage",
    "/secretmem",
)
"""How the kernel calls what is no file."""

GHOST_LIMIT_BYTES: Final = 64 << 20
"""As the keeper tells CRIU: a larger deleted file does not go into an image."""

REMOVED_LIMIT_BYTES: Final = 32 << 20
"""Of removed files on read-only mounts together: half of what engines give a container's /dev, in
which :mod:`architect.shim.keeper.ghosts` makes them again, and which may hold something else."""

SLOW_FILE_SYSTEMS: Final = (
    *("nfs", "cifs", "smb", "ceph", "fuse", "9p", "virtiofs"),
    *("afs", "lustre", "gfs2", "ocfs2", "orangefs", "beegfs", "gluster", "davfs"),
)
"""Their servers may be away: a file there is not asked for what it is."""


def is_file(target: str) -> bool:
    """Whether what is open or mapped by this name is not memory by another one."""
    return not target.startswith(_MEMORY)


def of_deleted(target: str, size: int, how: str) -> str:
    """Return what is told of a process that has a deleted file *how*, too large for an image."""
    name = shown(target.removesuffix(DELETED))
    return f"has a deleted file of {size >> 20} MiB {how}: {name}"


def of_removed(found: Sequence[Removed], *, room_bytes: int) -> str:
    """Return why files that were removed from read-only mounts cannot be made again; empty: can."""
    room_bytes = min(room_bytes, REMOVED_LIMIT_BYTES)
    whole = 0
    for one in sorted(found, key=lambda one: one.size_bytes or 0, reverse=True):
        if one.size_bytes is None:
            return f"a removed file is open on a mount that may not answer: {shown(one.path)}"
        whole += one.size_bytes
    if not found or 0 < room_bytes >= whole:
        return ""
    largest = max(found, key=lambda one: one.size_bytes or 0)
    return (
        f"removed files of {whole / (1 << 20):.1f} MiB are open on read-only mounts, and "
        f"{room_bytes / (1 << 20):.1f} MiB fit into /dev, where they would be made again: "
        f"{shown(largest.path)}"
    )
