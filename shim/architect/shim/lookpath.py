"""Where a container will find its executable, before the container exists.

The lower runtime fails a container whose executable is missing with texts that users and engines
know. With our init in front it would start and end with 127 instead, so such a container is left to
the lower runtime. The search follows the container's root, its bind mounts and its symbolic links;
nothing outside of them is looked at.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

MOST_LINKS: Final = 40
"""The kernel's own bound (MAXSYMLINKS)."""


class Tree:
    """A container's files as they will be after its mounts."""

    def __init__(self, root: Path, mounts: Sequence[Mapping[str, Any]]) -> None:
        self._root = root
        # A later mount covers an earlier one; the longest destination is the innermost.
        self._mounts = {
            posixpath.normpath(str(mount.get("destination", ""))): _bind_source(mount)
            for mount in mounts
        }

    def host_path(self, path: str) -> Path | None:
        """Return the host's path of the absolute, link-free *path*; None: not from the host."""
        inner = path
        while inner != "/":
            if inner in self._mounts:
                source = self._mounts[inner]
                return None if source is None else source / path[len(inner) :].lstrip("/")
            inner = posixpath.dirname(inner)
        return self._root / path.lstrip("/")

    def _is_on_the_way_to_a_mount(self, path: str) -> bool:
        """Whether *path* is a directory that exists, or is made, because something is in it."""
        return any(to == path or to.startswith(f"{path}/") for to in self._mounts)

    def status(self, path: str) -> os.stat_result | None:
        """Return the status of the file that *path* leads to, links followed inside the tree."""
        todo = [part for part in path.split("/") if part not in ("", ".")][::-1]
        at, links = "/", 0
        found: os.stat_result | None = None
        while todo:
            part = todo.pop()
            if part == "..":
                at = posixpath.dirname(at)
                continue
            step = posixpath.join(at, part)
            host = self.host_path(step)
            target = None
            try:
                found = None if host is None else os.lstat(host)
                if host is not None and found is not None and stat.S_ISLNK(found.st_mode):
                    target = os.readlink(host)
            except (OSError, ValueError):
                found = None
            if found is None and not self._is_on_the_way_to_a_mount(step):
                return None
            if target is None:
                at = step
                continue
            links += 1
            if links > MOST_LINKS:
                return None
            at = "/" if target.startswith("/") else at
            todo += [part for part in target.split("/") if part not in ("", ".")][::-1]
        return found


def _bind_source(mount: Mapping[str, Any]) -> Path | None:
    options = mount.get("options") or ()
    is_bind = mount.get("type") == "bind" or "bind" in options or "rbind" in options
    return Path(str(mount.get("source", ""))) if is_bind else None


def is_found(tree: Tree, process: Mapping[str, Any]) -> bool:
    """Whether the first word of ``process.args`` leads to a file that its user may execute."""
    name = process["args"][0]
    cwd = process.get("cwd") or "/"
    if "/" in name:
        return _may_execute(tree.status(posixpath.join(cwd, name)), process.get("user") or {})
    for entry in process.get("env") or ():
        if entry.startswith("PATH="):
            return any(
                _may_execute(
                    tree.status(posixpath.join(cwd, directory, name)), process.get("user") or {}
                )
                for directory in entry[len("PATH=") :].split(":")
            )
    return False


def _may_execute(status: os.stat_result | None, user: Mapping[str, Any]) -> bool:
    if status is None or not stat.S_ISREG(status.st_mode):
        return False
    uid = user.get("uid", 0)
    if uid == 0:
        return bool(status.st_mode & 0o111)
    if uid == status.st_uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid in {user.get("gid", 0), *(user.get("additionalGids") or ())}:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)
