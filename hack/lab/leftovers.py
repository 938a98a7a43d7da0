"""Remove a directory that something unknown may still be at work in.

A build that was killed leaves more than files: the programs that it had started go on (they are in
sessions of their own), and buildah's mounts stay. Deleting through a bind mount would delete the
host's files, so nothing is deleted while anything is mounted.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from lab import commands, errors, waiting

KILL_SECONDS = 30.0
REMOVE_SECONDS = 300.0


def discard(directory: Path) -> None:
    """Kill what works for *directory*, unmount what is below it, and remove it.

    Raises LabError if a mount stays.
    """
    waiting.until(
        lambda: not _kill(directory),
        what=f"end of what works for {directory}",
        timeout_seconds=KILL_SECONDS,
    )
    unmount_below(directory)
    commands.run(["rm", "-rf", "--one-file-system", directory], timeout_seconds=REMOVE_SECONDS)


def unmount_below(directory: Path) -> None:
    """Unmount what is mounted at or below *directory*. Raises LabError if a mount stays."""
    for point in mounts_below(directory, Path("/proc/self/mountinfo").read_text()):
        # Lazily: a mount point vanishes at once, whatever is open below it.
        commands.run(["umount", "--lazy", point])
    left = mounts_below(directory, Path("/proc/self/mountinfo").read_text())
    if left:
        raise errors.LabError(
            f"{left[0]} stays mounted", hint=f"umount it, then remove {directory}"
        )


def mounts_below(directory: Path, mountinfo: str) -> list[Path]:
    """Return the mount points at or below *directory*, the last one made first."""
    found = []
    for line in mountinfo.splitlines():
        # Space, tab, newline and backslash are written in octal.
        text = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), line.split()[4])
        point = Path(text)
        if point == directory or directory in point.parents:
            found.append(point)
    return found[::-1]


def is_mounted_anywhere(directory: Path) -> bool:
    """Whether *directory* or something in it is part of a mount of any process.

    A machine's root is an overlay on an artefact, in a mount namespace of its own; the path is in
    the overlay's options or is the root of a bind mount.
    """
    seen = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            namespace = os.readlink(process / "ns/mnt")
            if namespace in seen:
                continue
            seen.add(namespace)
            if mentions((process / "mountinfo").read_text(), directory):
                return True
        except OSError:
            continue  # it ended, or is a kernel thread
    return False


def mentions(mountinfo: str, directory: Path) -> bool:
    """Whether a mount's root, mount point or options name *directory* or something in it."""
    # The root of a bind mount is a path in its file system, not from our root: the name, which
    # has a hash in it, must do.
    return re.search(rf"/{re.escape(directory.name)}(?=[/ ,:\n])", mountinfo) is not None


def size_bytes(directory: Path) -> int:
    """Return the space that a directory takes on the disk."""
    return sum(
        os.lstat(os.path.join(folder, name)).st_blocks * 512
        for folder, folders, files in os.walk(directory)
        for name in (*folders, *files)
    )


def works_for(directory: Path, *, root: str, environ: bytes) -> bool:
    """Whether a process with this root and environment belongs to a build in *directory*."""
    is_inside = root == str(directory) or root.startswith(f"{directory}/")
    return is_inside or f"{commands.BUILD_VARIABLE}={directory}".encode() in environ.split(b"\0")


def _kill(directory: Path) -> bool:
    """Kill what works for *directory*; return whether there was anything."""
    found = False
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        try:
            root = os.readlink(process / "root")
            environ = (process / "environ").read_bytes()
            if not works_for(directory, root=root, environ=environ):
                continue
            os.kill(int(process.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended, it is a zombie, or it is another user's
        found = True
    return found
