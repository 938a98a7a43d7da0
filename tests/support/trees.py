"""Whole directory trees, compared in all that an application could notice but access times."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from architect.shim.layers.pack import data_segments

Tree = dict[bytes, dict[str, Any]]
"""Path below the root to what is there."""

ACL_ACCESS = "system.posix_acl_access"
ACL_DEFAULT = "system.posix_acl_default"
CAPABILITY = "security.capability"


def tree(root: Path, *, skip: frozenset[bytes] = frozenset()) -> Tree:
    """Return all that is below *root*, itself included; nothing at and below the paths *skip*."""
    found: Tree = {}
    links: dict[tuple[int, int], bytes] = {}
    for path in _paths(os.fsencode(root), b"", skip):
        found[path] = _described(os.path.join(os.fsencode(root), path), path, links)
    return found


def _paths(root: bytes, path: bytes, skip: frozenset[bytes]) -> Iterator[bytes]:
    if path in skip:
        return
    yield path
    full = os.path.join(root, path)
    if stat.S_ISDIR(os.lstat(full).st_mode):
        for name in sorted(os.listdir(full)):
            yield from _paths(root, os.path.join(path, name), skip)


def _described(full: bytes, path: bytes, links: dict[tuple[int, int], bytes]) -> dict[str, Any]:
    info = os.lstat(full)
    found: dict[str, Any] = {
        "type": stat.S_IFMT(info.st_mode),
        "mode": oct(stat.S_IMODE(info.st_mode)),
        "owner": (info.st_uid, info.st_gid),
        "mtime_ns": info.st_mtime_ns,
        "xattrs": _xattrs(full),
    }
    if not stat.S_ISDIR(info.st_mode):
        found["same as"] = links.setdefault((info.st_dev, info.st_ino), path)
    if stat.S_ISLNK(info.st_mode):
        found["target"] = os.readlink(full)
    elif stat.S_ISREG(info.st_mode):
        found["size"] = info.st_size
        found["content"], found["holes"] = _content(full, info.st_size)
    elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
        found["device"] = info.st_rdev
    return found


def _xattrs(full: bytes) -> dict[str, bytes]:
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = os.listxattr(full, follow_symlinks=False)
    return {
        name: os.getxattr(full, name, follow_symlinks=False)
        for name in names
        if not name.startswith(("trusted.overlay.", "security.selinux"))
    }


def _content(full: bytes, size: int) -> tuple[str, Any]:
    digest = hashlib.sha256()
    fd = os.open(full, os.O_RDONLY)
    try:
        segments = data_segments(fd, size)
        for offset, length in ((0, size),) if segments is None else segments:
            digest.update(b"%d:" % offset + os.pread(fd, length, offset))
        return digest.hexdigest(), segments
    finally:
        os.close(fd)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Return an ACL as the kernel takes it: (tag, permissions, id) each."""
    undefined = 0xFFFFFFFF
    result = (2).to_bytes(4, "little")
    for tag, permissions, identity in entries:
        result += tag.to_bytes(2, "little") + permissions.to_bytes(2, "little")
        result += (undefined if identity < 0 else identity).to_bytes(4, "little")
    return result


def acl_for(user: int) -> bytes:
    """Return an ACL that lets *user* read and write, besides owner and group."""
    return acl((1, 6, -1), (2, 6, user), (4, 4, -1), (0x10, 6, -1), (0x20, 0, -1))


def capability(*numbers: int) -> bytes:
    """Return a value of ``security.capability``: *numbers*, up to 31, permitted and effective."""
    mask = sum(1 << number for number in numbers)
    words = (0x02000001, mask, 0, 0, 0)
    return b"".join(word.to_bytes(4, "little") for word in words)
