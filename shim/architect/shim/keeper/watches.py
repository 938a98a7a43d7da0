"""Where the files are that an application watches (inotify, fanotify) on an overlay.

The kernel says of a watch which inode it is on, and CRIU opens that by its handle. An overlay, as
the root of every container is one, makes no handles that can be opened. But CRIU also reads a cache
of inodes and their paths from the image's directory, and a watch whose path it knows is made again
by that path. So the paths are looked for before the dump, while the application still runs, and
written there.

A watch on a file that has no name any more has no path; CRIU refuses it then, as before.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from architect.shim import procfs
from architect.shim.keeper.loop import Loop, Task
from architect.shim.packets import protobuf

MOST_ENTRIES: Final = 500_000
"""Directory entries that are looked at before the rest counts as not found."""
TURN_SECONDS: Final = 0.002
"""Of looking, before other pods have their turn."""

_CACHE: Final = "irmap-cache"
_MAGICS: Final = struct.pack("=II", 0x55105940, 0x57004059)
"""IMG_SERVICE_MAGIC, IRMAP_CACHE_MAGIC of CRIU's magic.h."""
_DEVICE, _INODE, _PATH = (1 << 3, 2 << 3, 3 << 3 | protobuf.BYTES)
"""Fields of irmap_cache_entry in CRIU's fh.proto."""
_KINDS: Final = ("anon_inode:inotify", "anon_inode:[fanotify]")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, order=True)
class Inode:
    """What is watched: an inode on a device, as ``stat`` numbers them."""

    device: int
    number: int


NOTHING: Final[Mapping[Inode, str]] = MappingProxyType({})


def on_overlays(init_pid: int, tree: Sequence[int]) -> set[Inode]:
    """Return what the processes *tree* watch on overlays among the mounts of *init_pid*."""
    devices = {device for device, _ in _overlays(init_pid)}
    return {one for pid in tree for one in _of_process(pid) if one.device in devices}


def find(loop: Loop, init_pid: int, wanted: set[Inode]) -> Task[dict[Inode, str]]:
    """Return the paths of *wanted* in the container of *init_pid*, as far as they are found.

    Other tasks run meanwhile.
    """
    found: dict[Inode, str] = {}
    turn = time.monotonic()
    for _ in _search(init_pid, wanted, found):
        if time.monotonic() - turn > TURN_SECONDS:
            yield loop.sleep(0)
            turn = time.monotonic()
    return found


def find_all(init_pid: int, wanted: set[Inode]) -> dict[Inode, str]:
    """Do as :func:`find`, at once."""
    found: dict[Inode, str] = {}
    for _ in _search(init_pid, wanted, found):
        pass
    return found


def _search(init_pid: int, wanted: set[Inode], found: dict[Inode, str]) -> Iterator[None]:
    """Put paths of *wanted* into *found*; yields at each entry of a directory."""
    if not wanted:
        return
    points = {os.fsencode(point) for point in _mount_points(init_pid)}
    entries = 0
    for device, point in _overlays(init_pid):
        numbers = {one.number for one in wanted if one.device == device}
        if not numbers:
            continue
        for number, path in _walk(init_pid, device, os.fsencode(point), points):
            entries += 1
            if number in numbers:
                found.setdefault(Inode(device, number), os.fsdecode(path))
            if len(found) == len(wanted) or entries > MOST_ENTRIES:
                return
            yield


def write(image: Path, found: Mapping[Inode, str]) -> None:
    """Write CRIU's cache of inodes and their paths into *image*; nothing if there are none."""
    if not found:
        return
    parts = [_MAGICS]
    for inode, path in sorted(found.items()):
        data = protobuf.message(
            [
                (_DEVICE, _kernel_device(inode.device)),
                (_INODE, inode.number),
                (_PATH, os.fsencode(path)),
            ]
        )
        parts.append(struct.pack("=I", len(data)) + data)
    fd = os.open(image / _CACHE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(b"".join(parts))


def parse(info: str) -> Iterator[Inode]:
    """Yield what a descriptor watches, from its ``/proc/PID/fdinfo`` (proc_pid_fdinfo(5))."""
    for line in info.split("\n"):
        kind, *words = line.split() or [""]
        if kind not in ("inotify", "fanotify"):
            continue
        fields = dict(word.split(":", 1) for word in words if ":" in word)
        if "ino" in fields and "sdev" in fields:
            value = int(fields["sdev"], 16)
            yield Inode(os.makedev(value >> 20, value & 0xFFFFF), int(fields["ino"], 16))


def _of_process(pid: int) -> Iterator[Inode]:
    base = f"/proc/{pid}"
    try:
        names = os.listdir(f"{base}/fd")
    except (FileNotFoundError, ProcessLookupError):
        return
    for name in names:
        with contextlib.suppress(OSError):  # closed in between
            if os.readlink(f"{base}/fd/{name}") in _KINDS:
                yield from parse("\n".join(procfs.lines(f"{base}/fdinfo/{name}")))


def _walk(
    init_pid: int, device: int, point: bytes, points: set[bytes]
) -> Iterator[tuple[int, bytes]]:
    """Yield number and path of everything on *device*, mounted at *point*; links are not followed.

    Each directory is opened below its parent's descriptor: the container may rename and link what
    it likes meanwhile, nobody leads this out of its files.
    """
    try:
        top = os.open(b"/proc/%d/root%b" % (init_pid, point), os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    stack = [(top, point, _entries(top, point))]
    try:
        status = os.fstat(top)
        if status.st_dev != device:
            return
        yield status.st_ino, point
        while stack:
            descriptor, _, entries = stack[-1]
            entry = next(entries, None)
            if entry is None:
                os.close(stack.pop()[0])
                continue
            number, path, is_directory = entry
            if path in points:
                continue
            yield number, path
            if is_directory:
                with contextlib.suppress(OSError):  # it has gone, or is another thing now
                    below = os.open(os.path.basename(path), _DIRECTORY, dir_fd=descriptor)
                    stack.append((below, path, _entries(below, path)))
    finally:
        for descriptor, _, _ in stack:
            os.close(descriptor)


def _entries(descriptor: int, path: bytes) -> Iterator[tuple[int, bytes, bool]]:
    with contextlib.suppress(OSError), os.scandir(descriptor) as listed:
        for entry in listed:
            name = os.fsencode(entry.name)
            yield entry.inode(), os.path.join(path, name), entry.is_dir(follow_symlinks=False)


def _overlays(init_pid: int) -> list[tuple[int, str]]:
    """Return device and mount point of each overlay that the container sees, the root first."""
    return [(device, point) for kind, device, point in _mounts(init_pid) if kind == "overlay"]


def _mount_points(init_pid: int) -> set[str]:
    return {point for _, _, point in _mounts(init_pid)}


def _mounts(init_pid: int) -> list[tuple[str, int, str]]:
    """Return kind, device and point of the mounts that *init_pid* sees (proc_pid_mountinfo(5))."""
    found = []
    try:
        lines = procfs.lines(f"/proc/{init_pid}/mountinfo")
    except OSError:  # also EINVAL: of a process that has ended and was not waited for
        return []
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split()
        major, minor = map(int, fields[2].split(":"))
        found.append((after.split()[0], os.makedev(major, minor), _unescaped(fields[4])))
    return found


def _unescaped(text: str) -> str:
    """Return a path as it is: mountinfo writes blanks, tabs, newlines and backslashes in octal."""
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(octal, character)
    return text


def _kernel_device(device: int) -> int:
    """Return a device as the kernel numbers it within: MKDEV() of linux/kdev_t.h."""
    return os.major(device) << 20 | os.minor(device)
