"""Writes one archive of a directory.

Left out: sockets, whose names the restored or new processes bind again (in a layer a deletion takes
their place, so that no file of the image shows there); what is mounted below the source; access
times, security labels, inode flags, preallocated space.

Others may write to the source meanwhile, as other containers to a shared emptyDir. What vanishes is
left out, a file that shrinks ends in zeros, one that grows is cut; a file that is written at that
moment is as after a power cut.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from architect.core.errors import NodeError
from architect.shim.layers import archive, beneath
from architect.shim.layers.archive import ArchiveError, Entry, Kind, Limits, Name, Summary, shown

_BUFFER_BYTES: Final = 1 << 20
_SMALL_BYTES: Final = 1 << 16
"""Files up to here are read at once, and asked for holes only if their blocks tell of some."""
_BLOCK_BYTES: Final = 512
"""The unit of st_blocks, on every file system."""
_GAP_BYTES: Final = 1 << 13

_WHITEOUT: Final = "trusted.overlay.whiteout"
"""On an empty file, since Linux 6.7: the other form of a deletion."""
_OPAQUE: Final = "trusted.overlay.opaque"
_REFUSED: Final = {
    "trusted.overlay.redirect": (
        "RedirectedDirectory",
        "the directory was renamed with overlay's redirect_dir: its content stays below",
    ),
    "trusted.overlay.metacopy": (
        "MetadataOnly",
        "the file was changed with overlay's metacopy: its content stays below",
    ),
}


def pack(source: Path, out: int, *, kind: Kind, limits: Limits | None = None) -> Summary:
    """Write an archive of the directory *source* to descriptor *out* and return what is in it.

    *source* itself must not be a symbolic link. *out* may be a pipe or a socket; nothing is synced.

    Raises NodeError (reasons ``RedirectedDirectory``, ``MetadataOnly``, ``NoSpace``, else
    ``PackFailed``) or ArchiveError if *limits* do not suffice. What was written is then useless.
    """
    packer = _Packer(out, kind=kind, limits=limits or Limits())
    try:
        fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return packer.run(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise NodeError(
            f"cannot pack {source}: {shown(packer.at)}: {error.strerror or error}",
            reason="NoSpace" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "PackFailed",
            errno=error.errno,
            path=source,
        ) from error


class _Packer:
    def __init__(self, out: int, *, kind: Kind, limits: Limits) -> None:
        self._out = _Output(out)
        self._kind = kind
        self._limits = limits
        self._first: dict[tuple[int, int], Name] = {}
        """Device and inode of what has several names, to the one that was packed."""
        self._entries = 0
        self._bytes = 0
        self._left_out = 0
        self.at: Name = ()
        """What is being packed, for errors."""

    def run(self, root: int) -> Summary:
        self._out.write(archive.preamble(self._kind))
        self._directory((), root)
        self._out.write(archive.END)
        self._out.flush()
        return Summary(entries=self._entries, bytes=self._bytes, left_out=self._left_out)

    def _directory(self, name: Name, fd: int) -> None:
        self.at = name
        listed = self._listed(fd)
        info = os.fstat(fd)
        if name and not listed and not info.st_nlink:
            return  # removed since it was opened
        attributes, marks = self._attributes(name, fd)
        # An "x" tells of whiteouts of the newer form in it. Of the root it has no meaning.
        is_opaque = bool(name) and marks.get(_OPAQUE) == b"y"
        self._add(_entry(name, archive.DIRECTORY, info, xattrs=attributes, is_opaque=is_opaque))
        if listed and len(name) >= self._limits.depth:
            raise ArchiveError(
                f"{shown(name)} lies more than {self._limits.depth} deep", reason="TooDeep"
            )
        for each in listed:
            self.at = (*name, each)
            try:
                pinned = beneath.open_below(fd, each, os.O_PATH | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                self._left_out += 1
                continue
            directory = None
            try:
                info = os.fstat(pinned)
                path = f"/proc/self/fd/{pinned}"
                if stat.S_ISDIR(info.st_mode):
                    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                else:
                    self._inode(self.at, info, path, pinned)
            finally:
                os.close(pinned)
            if directory is not None:
                try:
                    self._directory(self.at, directory)
                finally:
                    os.close(directory)

    def _listed(self, fd: int) -> list[bytes]:
        found = []
        with os.scandir(fd) as entries:
            for entry in entries:
                found.append(os.fsencode(entry.name))
                if len(found) > self._limits.entries:
                    raise self._too_many()
        return sorted(found)

    def _inode(self, name: Name, info: os.stat_result, path: str, pinned: int) -> None:
        """Pack the inode that *pinned*, an O_PATH descriptor, holds; no directory.

        It is opened by *path* of this descriptor only, never by its name again: a device put in its
        place would do what devices do when they are opened.
        """
        match stat.S_IFMT(info.st_mode):
            case stat.S_IFREG:
                self._regular(name, path)
            case stat.S_IFSOCK:
                if self._kind is Kind.LAYER:
                    self._deletion(name)
                else:
                    self._left_out += 1
            case stat.S_IFCHR if self._kind is Kind.LAYER and info.st_rdev == 0:
                # Before hard links: overlay uses one inode for all deletions.
                self._deletion(name)
            case stat.S_IFLNK:
                if not self._is_linked(name, info):
                    target = os.fsencode(os.readlink(b"", dir_fd=pinned))
                    self._add(_entry(name, archive.SYMLINK, info, target=target))
            case other:
                if not self._is_linked(name, info):
                    kind = {
                        stat.S_IFCHR: archive.CHARACTER,
                        stat.S_IFBLK: archive.BLOCK,
                        stat.S_IFIFO: archive.FIFO,
                    }[other]
                    attributes, _ = self._attributes(name, path)
                    self._add(_entry(name, kind, info, xattrs=attributes))

    def _regular(self, name: Name, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_NOATIME | os.O_CLOEXEC)
        try:
            info = os.fstat(fd)
            if self._is_linked(name, info):
                return
            attributes, marks = self._attributes(name, fd)
            if _WHITEOUT in marks and not info.st_size:
                self._deletion(name)
                return
            size, segments = info.st_size, None
            if size > _SMALL_BYTES or info.st_blocks * _BLOCK_BYTES < size:
                segments = data_segments(fd, size)
            entry = _entry(
                name, archive.REGULAR, info, xattrs=attributes, size=size, segments=segments
            )
            self._add(entry)
            for offset, length in ((0, size),) if segments is None else segments:
                self._out.copy(fd, offset, length)
            self._out.write(bytes(archive.padding(entry.stored_bytes)))
            if info.st_nlink > 1:
                self._first[info.st_dev, info.st_ino] = name
        finally:
            os.close(fd)

    def _is_linked(self, name: Name, info: os.stat_result) -> bool:
        """Pack *name* as another name of what was packed already, if it is that."""
        if info.st_nlink < 2:
            return False
        key = info.st_dev, info.st_ino
        first = self._first.get(key)
        if first is None:
            if not stat.S_ISREG(info.st_mode):
                self._first[key] = name
            return False
        self._add(_entry(name, archive.HARD_LINK, info, link=first))
        return True

    def _deletion(self, name: Name) -> None:
        self._add(Entry(name=name, type=archive.CHARACTER))

    def _attributes(
        self, name: Name, file: int | str
    ) -> tuple[dict[bytes, bytes], dict[str, bytes]]:
        """Return the extended attributes that travel and, of a layer, overlay's own marks."""
        found: dict[bytes, bytes] = {}
        marks: dict[str, bytes] = {}
        try:
            listed = os.listxattr(file)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            listed = []
        for attribute in listed:
            if self._kind is Kind.LAYER and attribute in _REFUSED:
                reason, message = _REFUSED[attribute]
                raise NodeError(f"cannot pack {shown(name)}: {message}", reason=reason)
            key = os.fsencode(attribute)
            is_mark = self._kind is Kind.LAYER and attribute in (_OPAQUE, _WHITEOUT)
            if not (is_mark or archive.is_kept_xattr(key)):
                continue
            try:
                value = os.getxattr(file, attribute)
            except OSError as error:
                if error.errno != errno.ENODATA:  # removed meanwhile
                    raise
                continue
            if is_mark:
                marks[attribute] = value
            else:
                found[key] = value
        return found, marks

    def _add(self, entry: Entry) -> None:
        if sum(map(len, entry.name)) + len(entry.name) - 1 > archive.PATH_BYTES:
            raise ArchiveError(f"{shown(entry.name)}… is too long a path", reason="BadName")
        self._entries += 1
        self._bytes += entry.stored_bytes
        limits = self._limits
        if self._entries > limits.entries:
            raise self._too_many()
        if self._bytes > limits.bytes or entry.size > limits.file_bytes:
            raise ArchiveError(
                f"with {shown(entry.name)} there are more than {limits.bytes} bytes, "
                f"or it is longer than {limits.file_bytes}",
                reason="TooLarge",
            )
        self._out.write(archive.header(entry))

    def _too_many(self) -> ArchiveError:
        return ArchiveError(
            f"there are more than {self._limits.entries} files", reason="TooManyEntries"
        )


def _entry(
    name: Name,
    kind: bytes,
    info: os.stat_result,
    *,
    xattrs: dict[bytes, bytes] | None = None,
    size: int = 0,
    segments: tuple[tuple[int, int], ...] | None = None,
    target: bytes = b"",
    link: Name | None = None,
    is_opaque: bool = False,
) -> Entry:
    is_device = kind in (archive.CHARACTER, archive.BLOCK)
    return Entry(
        name=name,
        type=kind,
        mode=stat.S_IMODE(info.st_mode),
        uid=info.st_uid,
        gid=info.st_gid,
        mtime_ns=info.st_mtime_ns,
        size=size,
        target=target,
        link=link,
        device=(os.major(info.st_rdev), os.minor(info.st_rdev)) if is_device else (0, 0),
        xattrs=xattrs or {},
        is_opaque=is_opaque,
        segments=segments,
    )


def data_segments(fd: int, size: int) -> tuple[tuple[int, int], ...] | None:
    """Return where a file of *size* bytes has data; None if it has no holes, or may have none."""
    found: list[tuple[int, int]] = []
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                break
            if error.errno == errno.EINVAL:  # the file system does not tell
                return None
            raise
        if start >= size:
            break
        found.append((start, end - start))
        at = end
    if found == [(0, size)] or not size:
        return None
    found = coalesced(found, archive.SEGMENTS - 1)
    if not found or sum(found[-1]) < size:
        found.append((size, 0))  # as GNU tar does, so that it makes the file as long
    return tuple(found)


def coalesced(segments: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Return at most *most* segments that cover *segments*, with the smallest gaps closed."""
    gap = _GAP_BYTES
    while len(segments) > most:
        merged: list[tuple[int, int]] = []
        for offset, length in segments:
            if merged and offset - sum(merged[-1]) <= gap:
                merged[-1] = (merged[-1][0], offset + length - merged[-1][0])
            else:
                merged.append((offset, length))
        segments = merged
        gap *= 2
    return segments


class _Output:
    """Collects small pieces; large ones go from file to file in the kernel."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = bytearray()

    def write(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        view = memoryview(bytes(self._buffer))
        self._buffer.clear()
        while view:
            view = view[os.write(self._fd, view) :]

    def copy(self, fd: int, offset: int, length: int) -> None:
        """Write *length* bytes of *fd* from *offset* on; zeros where it has become shorter."""
        end = offset + length
        if length > _SMALL_BYTES:
            self.flush()
            offset += self._send(fd, offset, length)
        while offset < end:
            data = os.pread(fd, min(end - offset, _BUFFER_BYTES), offset)
            if not data:
                break
            self.write(data)
            offset += len(data)
        while offset < end:
            zeros = min(end - offset, _BUFFER_BYTES)
            self.write(bytes(zeros))
            offset += zeros

    def _send(self, fd: int, offset: int, length: int) -> int:
        """Return how much the kernel copied: up to the file's end, or nothing if it cannot."""
        done = 0
        while done < length:
            try:
                sent = os.sendfile(self._fd, fd, offset + done, min(length - done, 1 << 30))
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ENOSYS):
                    break
                raise
            if not sent:
                break
            done += sent
        return done
