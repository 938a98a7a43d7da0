"""Reads an archive strictly: what is not exactly as the format says ends the reading.

Entries come depth first, the names of a directory in ascending order. Only what ascends is
accepted, so that no name comes twice, nothing comes before its directory or below something else,
and nothing needs to be remembered but the directories that are open.

All numbers are checked against the caller's limits before anything of the entry is used, and
nothing is ever allocated by a number that the archive declares.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from typing import Final

from architect.shim.layers import archive
from architect.shim.layers.archive import (
    BLOCK_BYTES,
    ArchiveError,
    Entry,
    Kind,
    Limits,
    Name,
    Summary,
    shown,
)

_BUFFER_BYTES: Final = 1 << 18
_COPY_BYTES: Final = 1 << 20
_RECORD_BYTES: Final = 20 * BLOCK_BYTES
"""Ordinary tar fills its last record of so many bytes with zeros."""
_LARGEST_ID: Final = (1 << 32) - 2
"""The highest user or group; the next one means "unchanged" to chown(2)."""
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,18}")
_MAP_LINE_BYTES: Final = 20
_EMPTY: Final = bytes(BLOCK_BYTES)
_NO_PREFIX: Final = bytes(BLOCK_BYTES - 345)
"""Long paths are PAX records."""
_LARGEST_DEVICE: Final = (0xFFF, 0xFFFFF)
"""Major and minor number of Linux."""
_KEYS: Final = frozenset(
    {
        *(b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"hdrcharset"),
        *(b"GNU.sparse.major", b"GNU.sparse.minor", b"GNU.sparse.name", b"GNU.sparse.realsize"),
    }
)


class Reader:
    """One reading of the archive on descriptor *fd*, from where it stands to its end.

    *fd* may be a pipe. It stays open; how far it was read is not defined.
    """

    def __init__(self, fd: int, *, kind: Kind, limits: Limits) -> None:
        self._file = io.BufferedReader(io.FileIO(fd, closefd=False), _BUFFER_BYTES)
        self._kind = kind
        self._limits = limits
        self._entries = 0
        self._bytes = 0
        self._pending = 0
        """Bytes of data of the current entry that were not read yet, without the padding."""
        self._padding = 0
        self._open: list[bytes] = []
        """The names of the directories that are open, from the root's child on."""
        self._last: list[bytes] = []
        """The last name seen in the root and in each of them; empty: none yet."""

    @property
    def summary(self) -> Summary:
        """What has been read so far."""
        return Summary(entries=self._entries, bytes=self._bytes)

    def __iter__(self) -> Iterator[Entry]:
        """Yield each entry; its data can be taken by :meth:`copy` until the next one is asked for.

        Raises ArchiveError, if need be after the last entry: an archive is whole only when the
        iteration has ended by itself.
        """
        self._preamble()
        while (entry := self._entry()) is not None:
            self._count(entry)
            yield entry
            self._skip()
        if not self._entries:
            raise ArchiveError("the archive has no root", reason="BadOrder")

    def copy(self, entry: Entry, out: int) -> None:
        """Write the data of *entry*, the current one, to the empty file *out*. Raises OSError."""
        buffer = memoryview(bytearray(min(_COPY_BYTES, max(1, self._pending))))
        segments = entry.segments
        if segments is not None:
            os.ftruncate(out, entry.size)
        for offset, length in ((0, entry.size),) if segments is None else segments:
            end = offset + length
            while offset < end:
                got = self._file.readinto(buffer[: end - offset])
                if not got:
                    raise _truncated()
                self._pending -= got
                offset = _write(out, buffer[:got], offset)

    def _preamble(self) -> None:
        block = self._block()
        if block[156:157] != archive.GLOBAL or not _is_tar(block):
            raise ArchiveError("this is no archive of Architect", reason="BadHeader")
        found = archive.parse_records(self._records(block))
        version = found.pop(archive.VERSION_KEY, b"none")
        if version != b"%d" % archive.VERSION:
            raise ArchiveError(
                f"archive version {version.decode(errors='replace'):.20} is not {archive.VERSION}",
                reason="UnknownVersion",
                hint="the archive was written by another version of Architect",
            )
        kind = found.pop(archive.KIND_KEY, b"none")
        if kind != self._kind.encode():
            raise ArchiveError(
                f"the archive is of a {kind.decode(errors='replace'):.20}, not of a {self._kind}",
                reason="WrongKind",
            )
        _refuse_unknown(found)

    def _entry(self) -> Entry | None:
        block = self._block()
        if block == _EMPTY:
            self._end()
            return None
        pax: dict[bytes, bytes] = {}
        if block[156:157] == archive.EXTENDED and _is_tar(block):
            pax = archive.parse_records(self._records(block))
            block = self._block()
        if not _is_tar(block):
            raise ArchiveError("a header is damaged", reason="BadHeader")
        kind = block[156:157]
        if kind not in archive.TYPES:
            raise ArchiveError(f"entries of type {kind!r} are not known", reason="BadHeader")
        if block[345:] != _NO_PREFIX:
            raise ArchiveError("a header has a prefix", reason="BadHeader")
        return self._parsed(kind, block, pax)

    def _parsed(self, kind: bytes, block: bytes, pax: dict[bytes, bytes]) -> Entry:
        xattrs = {
            archive.xattr_name(key.removeprefix(archive.XATTR_KEY)): pax.pop(key)
            for key in list(pax)
            if key.startswith(archive.XATTR_KEY)
        }
        _refuse_unknown({key: value for key, value in pax.items() if key not in _KEYS})
        if pax.get(b"hdrcharset", b"BINARY") != b"BINARY":
            raise ArchiveError("a header has a character set", reason="BadHeader")
        is_sparse = any(key.startswith(b"GNU.") for key in pax)
        if is_sparse and (
            kind != archive.REGULAR
            or (pax.get(b"GNU.sparse.major"), pax.get(b"GNU.sparse.minor")) != (b"1", b"0")
            or not {b"GNU.sparse.name", b"GNU.sparse.realsize"} <= pax.keys()
            or b"path" in pax
        ):
            raise ArchiveError("a sparse file is not of format 1.0", reason="BadSparse")
        path = pax.get(b"GNU.sparse.name", pax.get(b"path", _text(block, 0, 100)))
        name = archive.parse_name(path, is_directory=kind == archive.DIRECTORY)
        target, link = self._link(kind, pax.get(b"linkpath", _text(block, 157, 100)), name)
        self._order(name, is_directory=kind == archive.DIRECTORY)
        size = _number(pax, b"size", _octal(block, 124, 12))
        if size and kind != archive.REGULAR:
            raise ArchiveError(f"{shown(name)} has data", reason="BadHeader")
        self._pending, self._padding = size, archive.padding(size)
        segments = None
        if is_sparse:
            size = _number(pax, b"GNU.sparse.realsize", 0)
            segments = self._segments(name, size)
        elif size > self._limits.bytes - self._bytes:
            raise self._too_large(name)
        if size > self._limits.file_bytes:
            raise self._too_large(name)
        device = (0, 0)
        if kind in (archive.CHARACTER, archive.BLOCK):
            device = (_octal(block, 329, 8), _octal(block, 337, 8))
            if device[0] > _LARGEST_DEVICE[0] or device[1] > _LARGEST_DEVICE[1]:
                raise ArchiveError(f"{shown(name)} is an impossible device", reason="BadHeader")
        mode = _octal(block, 100, 8)
        uid = _number(pax, b"uid", _octal(block, 108, 8))
        gid = _number(pax, b"gid", _octal(block, 116, 8))
        if mode > 0o7777 or max(uid, gid) > _LARGEST_ID:
            raise ArchiveError(f"{shown(name)} has an impossible mode or owner", reason="BadHeader")
        mtime = pax.get(b"mtime")
        opaque = xattrs.pop(archive.OPAQUE, None)
        if opaque not in (None, b"y"):
            raise ArchiveError(f"{shown(name)} is opaque in a strange way", reason="BadXattr")
        entry = Entry(
            name=name,
            type=kind,
            mode=mode,
            uid=uid,
            gid=gid,
            mtime_ns=(
                _octal(block, 136, 12) * 1_000_000_000
                if mtime is None
                else archive.parse_time(mtime)
            ),
            size=size,
            target=target,
            link=link,
            device=device,
            is_opaque=opaque is not None,
            xattrs=xattrs,
            segments=segments,
        )
        self._check_attributes(entry)
        return entry

    def _check_attributes(self, entry: Entry) -> None:
        if entry.is_opaque and not (
            self._kind is Kind.LAYER and entry.type == archive.DIRECTORY and entry.name
        ):
            raise ArchiveError(f"{shown(entry.name)} cannot be opaque", reason="BadXattr")
        for name in entry.xattrs:
            if not archive.is_kept_xattr(name) or len(name) > archive.NAME_BYTES or b"\0" in name:
                raise ArchiveError(
                    f"{shown(entry.name)} has the attribute {name!r:.80}, which does not travel",
                    reason="BadXattr",
                )
        is_bare = entry.type in (archive.HARD_LINK, archive.SYMLINK) or (
            self._kind is Kind.LAYER and entry.is_whiteout
        )
        if is_bare and entry.xattrs:
            raise ArchiveError(f"{shown(entry.name)} cannot have attributes", reason="BadXattr")

    def _link(self, kind: bytes, text: bytes, name: Name) -> tuple[bytes, Name | None]:
        if kind == archive.SYMLINK:
            if not 0 < len(text) <= archive.PATH_BYTES or b"\0" in text:
                raise ArchiveError(f"{shown(name)} leads nowhere", reason="BadLink")
            return text, None
        if kind == archive.HARD_LINK:
            link = archive.parse_name(text, is_directory=False)
            # A directory that contains it is earlier too; link(2) refuses those.
            if link >= name or len(link) > self._limits.depth:
                raise ArchiveError(
                    f"{shown(name)} is a link to {shown(link)}, which is no earlier entry",
                    reason="BadLink",
                )
            return b"", link
        if text:
            raise ArchiveError(f"{shown(name)} is no link and names one", reason="BadLink")
        return b"", None

    def _order(self, name: Name, *, is_directory: bool) -> None:
        if not name:
            if self._last:
                raise ArchiveError("the root comes twice", reason="BadOrder")
            self._last.append(b"")
            return
        depth = len(name) - 1
        if len(name) > self._limits.depth:
            raise ArchiveError(
                f"{shown(name)} lies more than {self._limits.depth} deep", reason="TooDeep"
            )
        if depth >= len(self._last) or tuple(self._open[:depth]) != name[:-1]:
            raise ArchiveError(f"{shown(name)} does not follow its directory", reason="BadOrder")
        if name[-1] <= self._last[depth]:
            raise ArchiveError(f"{shown(name)} comes twice or too late", reason="BadOrder")
        del self._open[depth:], self._last[depth + 1 :]
        self._last[depth] = name[-1]
        if is_directory:
            self._open.append(name[-1])
            self._last.append(b"")

    def _segments(self, name: Name, size: int) -> tuple[tuple[int, int], ...]:
        """Read the map that precedes a sparse file's data."""
        left = self._pending
        read = 0

        def number() -> int:
            nonlocal left, read
            line = self._file.readline(min(_MAP_LINE_BYTES, left))
            left -= len(line)
            read += len(line)
            if not line.endswith(b"\n") or not _NUMBER.fullmatch(line[:-1]):
                raise ArchiveError(f"the map of {shown(name)} is damaged", reason="BadSparse")
            return int(line)

        count = number()
        if count > archive.SEGMENTS:
            raise ArchiveError(f"{shown(name)} is in {count} pieces", reason="BadSparse")
        found = []
        end = 0
        for _ in range(count):
            offset, length = number(), number()
            if offset < end or offset + length > size:
                raise ArchiveError(f"the map of {shown(name)} overlaps", reason="BadSparse")
            end = offset + length
            found.append((offset, length))
        left -= self._zeros(min(archive.padding(read), left))
        total = sum(length for _, length in found)
        if total != left:
            raise ArchiveError(
                f"the map of {shown(name)} tells {total} bytes, not {left}", reason="BadSparse"
            )
        if total > self._limits.bytes - self._bytes:
            raise self._too_large(name)
        self._pending = total
        return tuple(found)

    def _count(self, entry: Entry) -> None:
        self._entries += 1
        self._bytes += entry.stored_bytes
        if self._entries > self._limits.entries:
            raise ArchiveError(
                f"the archive has more than {self._limits.entries} entries",
                reason="TooManyEntries",
            )

    def _too_large(self, name: Name) -> ArchiveError:
        return ArchiveError(
            f"with {shown(name)} the archive is larger than {self._limits.bytes} bytes, "
            f"or the file than {self._limits.file_bytes}",
            reason="TooLarge",
        )

    def _skip(self) -> None:
        while self._pending:
            got = len(self._file.read(min(_COPY_BYTES, self._pending)))
            if not got:
                raise _truncated()
            self._pending -= got
        self._zeros(self._padding)
        self._padding = 0

    def _zeros(self, length: int) -> int:
        data = self._file.read(length)
        if len(data) != length:
            raise _truncated()
        if data.strip(b"\0"):
            raise ArchiveError("there is something between two entries", reason="BadHeader")
        return length

    def _end(self) -> None:
        if self._block() != _EMPTY:
            raise ArchiveError("an empty header stands alone", reason="BadHeader")
        rest = self._file.read(_RECORD_BYTES)
        if len(rest) == _RECORD_BYTES or rest.strip(b"\0"):
            raise ArchiveError("something follows the archive's end", reason="BadHeader")

    def _block(self) -> bytes:
        block = self._file.read(BLOCK_BYTES)
        if len(block) != BLOCK_BYTES:
            raise _truncated()
        return block

    def _records(self, block: bytes) -> bytes:
        length = _octal(block, 124, 12)
        if length > archive.HEADER_BYTES:
            raise ArchiveError(f"a header of {length} bytes is too long", reason="BadHeader")
        data = self._file.read(length)
        if len(data) != length:
            raise _truncated()
        self._zeros(archive.padding(length))
        return data


def _write(out: int, data: memoryview, offset: int) -> int:
    """Write all of *data* at *offset* and return where it ends."""
    while data:
        written = os.pwrite(out, data, offset)
        offset += written
        data = data[written:]
    return offset


def _is_tar(block: bytes) -> bool:
    return block[257:265] == b"ustar\00000" and _octal_of(block[148:155]) == archive.checksum(block)


def _text(block: bytes, start: int, length: int) -> bytes:
    field = block[start : start + length]
    text, _, rest = field.partition(b"\0")
    if any(rest):
        raise ArchiveError("a header's field has a NUL in it", reason="BadHeader")
    return text


def _octal(block: bytes, start: int, length: int) -> int:
    found = _octal_of(block[start : start + length])
    if found is None:
        raise ArchiveError("a header's number is damaged", reason="BadHeader")
    return found


_OCTAL = re.compile(rb"[0-7]+\0")


def _octal_of(field: bytes) -> int | None:
    return int(field[:-1], 8) if _OCTAL.fullmatch(field) else None


def _number(pax: dict[bytes, bytes], key: bytes, default: int) -> int:
    text = pax.get(key)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text):
        raise ArchiveError(f"{key.decode()}={text!r:.40} is not a number", reason="BadHeader")
    return int(text)


def _refuse_unknown(found: dict[bytes, bytes]) -> None:
    for key in found:
        raise ArchiveError(f"PAX record {key!r:.80} is not known", reason="BadHeader")


def _truncated() -> ArchiveError:
    return ArchiveError("the archive ends too early", reason="Truncated")
