"""Applies an archive to the root of a container that does not run yet, or to a volume.

Neither the archive nor what is in the target is trusted. The archive's order makes every entry one
name in the directory that is open at that moment; that name is made with ``O_EXCL`` and the like
after what bore it was removed, and everything else happens by descriptor.

What the target has mounted something on belongs to the mount: entries for it and below it are left
out, and deletions stop there. So the files that a runtime makes as mount points, which are in every
layer, do no harm.

A directory is finished (owner, attributes, mode, time) when all in it is done. If anything fails,
the target is left partly changed and must not be used: start fresh.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Final

from architect.core.errors import NodeError
from architect.shim.layers import archive, beneath
from architect.shim.layers.archive import ArchiveError, Entry, Kind, Limits, Name, Summary, shown
from architect.shim.layers.reader import Reader

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_DEEPEST: Final = 256
"""How deep a tree that is in the way may be: its directories are open while it is removed."""


def apply(
    source: int,
    target: int,
    *,
    kind: Kind,
    limits: Limits | None = None,
    are_devices_allowed: bool = False,
) -> Summary:
    """Apply the archive on descriptor *source* to the directory *target*, and return what it was.

    *source* may be a pipe. *target* is a descriptor of the root directory, as of
    ``/proc/INIT/root``: of a container that was created and does not run. A volume may be in use by
    others; they can spoil what is made in it, nothing else.

    *are_devices_allowed*: whether device nodes are made. They are what the archive says, and only
    the device rules of the container's cgroup stand between them and its processes; so say yes only
    if the container itself may make nodes (CAP_MKNOD) under such rules. Deletions are none.

    A layer needs the same lower layers as it was packed above, and a target that is writable:
    a read-only root has no layer.

    Raises ArchiveError, or NodeError with the reasons ``NoSpace``, ``ReadOnly``, ``MountPoint`` (a
    file would replace what contains one), ``TargetChanged`` (by others), ``TooDeep`` (what is in
    the way), else ``ApplyFailed``.
    """
    reader = Reader(source, kind=kind, limits=limits or Limits())
    applier = _Applier(
        reader, target, is_layer=kind is Kind.LAYER, are_devices_allowed=are_devices_allowed
    )
    try:
        return applier.run()
    except OSError as error:
        raise NodeError(
            f"cannot apply {shown(applier.at)}: {error.strerror or error}",
            reason=_REASONS.get(error.errno or 0, "ApplyFailed"),
            errno=error.errno,
        ) from error
    finally:
        applier.close()


_REASONS: Final = {
    errno.ENOSPC: "NoSpace",
    errno.EDQUOT: "NoSpace",
    errno.EROFS: "ReadOnly",
}


@dataclass(frozen=True, slots=True)
class _Open:
    """A directory whose entries are coming."""

    entry: Entry
    fd: int | None
    """None: it is a mount point or lies below one."""


class _Applier:
    def __init__(
        self, reader: Reader, target: int, *, is_layer: bool, are_devices_allowed: bool
    ) -> None:
        self._reader = reader
        self._target = target
        self._is_layer = is_layer
        self._are_devices_allowed = are_devices_allowed
        self._stack: list[_Open] = []
        self._left_out = 0
        self.at: Name = ()
        """What is being applied, for errors."""

    def run(self) -> Summary:
        for entry in self._reader:
            self._finish_down_to(len(entry.name))
            self.at = entry.name
            if not entry.name:
                self._stack.append(_Open(entry, beneath.open_below(self._target, b".", _DIRECTORY)))
                continue
            parent = self._stack[-1].fd
            if parent is None or not self._apply(entry, parent):
                self._left_out += 1
                if entry.type == archive.DIRECTORY:
                    self._stack.append(_Open(entry, None))
        self._finish_down_to(0)
        found = self._reader.summary
        return Summary(entries=found.entries, bytes=found.bytes, left_out=self._left_out)

    def close(self) -> None:
        """Close what is open after a failure."""
        for each in self._stack:
            if each.fd is not None:
                os.close(each.fd)
        self._stack.clear()

    def _finish_down_to(self, depth: int) -> None:
        while len(self._stack) > depth:
            each = self._stack[-1]
            if each.fd is not None:
                self.at = each.entry.name
                _finish(each.fd, each.entry)
                os.close(each.fd)
            self._stack.pop()

    def _apply(self, entry: Entry, parent: int) -> bool:
        """Apply *entry* in the directory *parent*; False if the target has a mount there."""
        if self._is_layer and entry.is_whiteout:
            return remove(parent, entry.name[-1])
        if entry.type == archive.DIRECTORY:
            return self._directory(entry, parent)
        is_device = entry.type in (archive.CHARACTER, archive.BLOCK)
        if is_device and not (self._are_devices_allowed or entry.is_whiteout):
            raise ArchiveError(
                f"{shown(entry.name)} is a device node, which the container may not make",
                reason="DeviceRefused",
            )
        try:
            self._make(entry, parent)
        except FileExistsError:
            if beneath.is_mount_point(parent, entry.name[-1]):
                return False
            if not remove(parent, entry.name[-1]):
                raise NodeError(
                    f"cannot replace {shown(entry.name)}: something is mounted in it",
                    reason="MountPoint",
                ) from None
            self._make(entry, parent)
        return True

    def _directory(self, entry: Entry, parent: int) -> bool:
        name = entry.name[-1]
        try:
            fd = beneath.open_below(parent, name, _DIRECTORY)
        except OSError as error:
            if error.errno == errno.EXDEV:
                return False
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                os.unlink(name, dir_fd=parent)
            elif error.errno != errno.ENOENT:
                raise
            os.mkdir(name, 0o700, dir_fd=parent)
            fd = beneath.open_below(parent, name, _DIRECTORY)
        self._stack.append(_Open(entry, fd))
        if entry.is_opaque:
            _clear(fd, depth=0)
        return True

    def _make(self, entry: Entry, parent: int) -> None:
        """Make what is no directory. Raises FileExistsError if there is anything of its name."""
        name = entry.name[-1]
        if entry.link is not None:
            self._hard_link(entry.link, name, parent)
            return
        if entry.type == archive.REGULAR:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=parent)
            try:
                self._reader.copy(entry, fd)
                _finish(fd, entry)
            finally:
                os.close(fd)
            return
        if entry.type == archive.SYMLINK:
            os.symlink(entry.target, name, dir_fd=parent)
        elif entry.type == archive.FIFO:
            os.mkfifo(name, 0o600, dir_fd=parent)
        else:
            mode = stat.S_IFCHR if entry.type == archive.CHARACTER else stat.S_IFBLK
            os.mknod(name, mode | 0o600, os.makedev(*entry.device), dir_fd=parent)
        # There is no descriptor of what was just made; what bears its name now may be another's.
        fd = beneath.open_below(parent, name, os.O_PATH | os.O_NOFOLLOW)
        try:
            if stat.S_IFMT(os.fstat(fd).st_mode) != _FORMATS[entry.type]:
                raise NodeError(
                    f"{shown(entry.name)} was replaced while it was made", reason="TargetChanged"
                )
            _finish(f"/proc/self/fd/{fd}", entry)
        finally:
            os.close(fd)

    def _hard_link(self, link: Name, name: bytes, parent: int) -> None:
        directory = self._stack[0].fd
        assert directory is not None
        opened: int | None = None
        try:
            if len(link) > 1:
                path = b"/".join(link[:-1])
                directory = opened = beneath.open_below(directory, path, os.O_PATH | os.O_DIRECTORY)
            if beneath.is_mount_point(directory, link[-1]):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            os.link(
                *(link[-1], name),
                src_dir_fd=directory,
                dst_dir_fd=parent,
                follow_symlinks=False,
            )
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            raise ArchiveError(
                f"cannot link to {shown(link)}: {error.strerror}", reason="BadLink"
            ) from error
        finally:
            if opened is not None:
                os.close(opened)


_FORMATS: Final = {
    archive.SYMLINK: stat.S_IFLNK,
    archive.FIFO: stat.S_IFIFO,
    archive.CHARACTER: stat.S_IFCHR,
    archive.BLOCK: stat.S_IFBLK,
}


def _finish(file: int | str, entry: Entry) -> None:
    """Give *file* the owner, attributes, mode and time of *entry*, in the order that keeps them.

    chown(2) takes set-uid bits and security.capability away; an ACL is part of the mode.
    """
    os.chown(file, entry.uid, entry.gid)
    if entry.type != archive.SYMLINK:
        _set_attributes(file, entry)
        os.chmod(file, entry.mode)
    os.utime(file, ns=(entry.mtime_ns, entry.mtime_ns))


def _set_attributes(file: int | str, entry: Entry) -> None:
    try:
        present = {os.fsencode(name) for name in os.listxattr(file)}
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        present = set()
    # Also a new file may have some: the default ACL of its directory.
    for name in present - entry.xattrs.keys():
        if archive.is_kept_xattr(name):
            os.removexattr(file, name)
    for name, value in entry.xattrs.items():
        os.setxattr(file, name, value)


def remove(parent: int, name: bytes, *, depth: int = 0) -> bool:
    """Remove *name* and all below it; True unless something is mounted there, which stays."""
    try:
        fd = beneath.open_below(parent, name, os.O_PATH | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno == errno.EXDEV:
            return False
        raise
    try:
        is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
    finally:
        os.close(fd)
    if not is_directory:
        os.unlink(name, dir_fd=parent)
        return True
    fd = beneath.open_below(parent, name, _DIRECTORY)
    try:
        is_empty = _clear(fd, depth=depth + 1)
    finally:
        os.close(fd)
    if is_empty:
        os.rmdir(name, dir_fd=parent)
    return is_empty


def _clear(fd: int, *, depth: int) -> bool:
    """Remove all that is in the directory *fd* but mounts; True if nothing is left."""
    if depth > _DEEPEST:
        raise NodeError(f"a directory lies more than {_DEEPEST} deep", reason="TooDeep")
    is_empty = True
    for name in os.listdir(fd):
        is_empty &= remove(fd, os.fsencode(name), depth=depth)
    return is_empty
