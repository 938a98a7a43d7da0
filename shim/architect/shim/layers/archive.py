"""The archive's format: POSIX tar with PAX records, of which this is a strict subset. Pure.

Ordinary tools read it: a layer unpacked with all its xattrs is an overlay's upper directory.
``docs/formats.md`` describes it; :mod:`.reader` refuses whatever :func:`header` would not write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from architect.core.errors import FormatError

VERSION: Final = 1
BLOCK_BYTES: Final = 512
END: Final = bytes(2 * BLOCK_BYTES)

NAME_BYTES: Final = 255
PATH_BYTES: Final = 4095
"""NAME_MAX, and PATH_MAX without its NUL."""
HEADER_BYTES: Final = 1 << 20
"""Of the PAX records of one entry: what one inode can hold on any usual file system."""
SEGMENTS: Final = 1 << 18
"""Of one sparse file; a file in more pieces is packed with its smallest holes filled."""

GLOBAL: Final = b"g"
EXTENDED: Final = b"x"
REGULAR: Final = b"0"
HARD_LINK: Final = b"1"
SYMLINK: Final = b"2"
CHARACTER: Final = b"3"
BLOCK: Final = b"4"
DIRECTORY: Final = b"5"
FIFO: Final = b"6"
TYPES: Final = frozenset({REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK, DIRECTORY, FIFO})

VERSION_KEY: Final = b"ARCHITECT.version"
KIND_KEY: Final = b"ARCHITECT.kind"
XATTR_KEY: Final = b"SCHILY.xattr."
OPAQUE: Final = b"trusted.overlay.opaque"
"""On a directory of a layer: what lower layers have in it is gone."""

Name = tuple[bytes, ...]
"""A path below the root, by component; empty: the root itself."""


class Kind(StrEnum):
    """What an archive is of."""

    LAYER = "layer"
    """An overlay's upper directory: character devices 0/0 are deletions."""
    VOLUME = "volume"
    """A plain tree."""


class ArchiveError(FormatError):
    """An archive that is not what its version says, or larger than what the caller allows.

    ``reason`` is one of ``UnknownVersion``, ``WrongKind``, ``Truncated``, ``BadHeader``,
    ``BadName``, ``BadOrder``, ``BadLink``, ``BadSparse``, ``BadXattr``, ``DeviceRefused``,
    ``TooManyEntries``, ``TooLarge``, ``TooDeep``.
    """

    def __init__(self, message: str, *, reason: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much an archive may hold; more is refused, by pack as by apply."""

    entries: int = 1_000_000
    bytes: int = 1 << 40
    """Of all files together, as stored: holes do not count."""
    file_bytes: int = 1 << 43
    """Of one file, holes included."""
    depth: int = 256
    """Components of a path. As many directories are open at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What was packed, applied or read."""

    entries: int
    bytes: int
    """Of all files together, as stored."""
    left_out: int = 0
    """Packed: a volume's sockets, and mount points. Applied: entries for what the target has
    mounted something on and for what lies below, and deletions that such a mount stopped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One name, without its data."""

    name: Name
    type: bytes
    mode: int = 0
    """Permissions, set-uid, set-gid and sticky bits."""
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    """Of a regular file, holes included."""
    target: bytes = b""
    """The text of a symbolic link."""
    link: Name | None = None
    """Of a hard link: the earlier entry."""
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    is_opaque: bool = False
    segments: tuple[tuple[int, int], ...] | None = None
    """Offset and length of the data of a sparse file; None: all of it."""

    @property
    def is_whiteout(self) -> bool:
        """Whether it is a deletion, if it is of a layer."""
        return self.type == CHARACTER and self.device == (0, 0)

    @property
    def stored_bytes(self) -> int:
        """How much data of the file is in the archive."""
        if self.segments is None:
            return self.size
        return sum(length for _, length in self.segments)


def shown(name: Name) -> str:
    """Return *name* for a person to read."""
    return repr(b"/".join(name) or b"/")[2:-1][:200]


def is_kept_xattr(name: bytes) -> bool:
    """Whether an extended attribute means the same on another node.

    Security labels, integrity hashes and overlay's own notes do not.
    """
    return name.startswith(b"user.") or name in (
        b"security.capability",
        b"system.posix_acl_access",
        b"system.posix_acl_default",
    )


def padding(length: int) -> int:
    """Return how many zero bytes follow *length* bytes of data."""
    return -length % BLOCK_BYTES


def preamble(kind: Kind) -> bytes:
    """Return how an archive of *kind* begins."""
    found = records([(VERSION_KEY, b"%d" % VERSION), (KIND_KEY, kind.encode())])
    return _block(b"pax_global_header", GLOBAL, size=len(found)) + _padded(found)


def header(entry: Entry) -> bytes:
    """Return all that precedes the data of *entry*, a sparse file's map included.

    Raises ArchiveError if it has more attributes than an archive can hold.
    """
    pax: list[tuple[bytes, bytes]] = []
    path = b"/".join(entry.name)
    if entry.type == DIRECTORY:
        path = path + b"/" if path else b"./"
    link = entry.target if entry.link is None else b"/".join(entry.link)
    if not (_is_utf8(path) and _is_utf8(link)):
        pax.append((b"hdrcharset", b"BINARY"))
    sparse = b""
    if entry.segments is not None:
        sparse = sparse_map(entry.segments)
        pax += [
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", path),
            (b"GNU.sparse.realsize", b"%d" % entry.size),
        ]
    elif len(path) > 100 or not path.isascii():
        pax.append((b"path", path))
    if len(link) > 100 or not link.isascii():
        pax.append((b"linkpath", link))
    size = entry.stored_bytes + len(sparse)
    for key, value, largest in (
        (b"uid", entry.uid, 0o7777777),
        (b"gid", entry.gid, 0o7777777),
        (b"size", size, 0o77777777777),
    ):
        if value > largest:
            pax.append((key, b"%d" % value))
    seconds, rest = divmod(entry.mtime_ns, 1_000_000_000)
    if rest or not 0 <= seconds <= 0o77777777777:
        pax.append((b"mtime", time_text(entry.mtime_ns)))
    xattrs = dict(entry.xattrs)
    if entry.is_opaque:
        xattrs[OPAQUE] = b"y"
    pax += [(XATTR_KEY + xattr_key(name), value) for name, value in sorted(xattrs.items())]
    extended = records(pax)
    if len(extended) > HEADER_BYTES:
        raise ArchiveError(
            f"{shown(entry.name)}: {len(extended)} bytes of attributes are more than "
            f"{HEADER_BYTES}",
            reason="TooLarge",
        )
    own = _block(
        path[:100],
        entry.type,
        size=size if size <= 0o77777777777 else 0,
        mode=entry.mode,
        uid=entry.uid if entry.uid <= 0o7777777 else 0,
        gid=entry.gid if entry.gid <= 0o7777777 else 0,
        mtime=seconds if 0 <= seconds <= 0o77777777777 else 0,
        link=link[:100],
        device=entry.device,
    )
    if not extended:
        return own + sparse
    return _block(b"PaxHeader", EXTENDED, size=len(extended)) + _padded(extended) + own + sparse


def records(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return PAX records: ``LENGTH KEY=VALUE\\n``, where the length counts its own digits."""
    result = bytearray()
    for key, value in pairs:
        rest = len(key) + len(value) + 3
        length = rest + len(str(rest))
        length = rest + len(str(length))
        result += b"%d %b=%b\n" % (length, key, value)
    return bytes(result)


def parse_records(data: bytes) -> dict[bytes, bytes]:
    """Return the PAX records in *data*. Raises ArchiveError, also for a key that comes twice."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 9)
        digits = data[at:space] if space > at else b""
        if not digits.isdigit() or digits.startswith(b"0"):
            raise ArchiveError("a PAX record has no length", reason="BadHeader")
        end = at + int(digits)
        if end > len(data) or end <= space + 1 or data[end - 1] != 0x0A:
            raise ArchiveError("a PAX record is longer than its header", reason="BadHeader")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not key or not equals or key in found:
            raise ArchiveError(f"PAX record {key!r:.80} is malformed or twice", reason="BadHeader")
        found[key] = value
        at = end
    return found


def sparse_map(segments: Iterable[tuple[int, int]]) -> bytes:
    """Return the map of GNU sparse format 1.0, which precedes the data, in whole blocks."""
    found = list(segments)
    lines = [b"%d\n" % len(found)]
    lines += [b"%d\n%d\n" % segment for segment in found]
    return _padded(b"".join(lines))


def xattr_key(name: bytes) -> bytes:
    """Return an attribute's name as GNU tar writes it where ``=`` ends a key."""
    return name.replace(b"%", b"%25").replace(b"=", b"%3D")


def xattr_name(key: bytes) -> bytes:
    """Return what :func:`xattr_key` was given."""
    return key.replace(b"%3D", b"=").replace(b"%25", b"%")


def time_text(nanoseconds: int) -> bytes:
    """Return a time as PAX writes it: seconds and a decimal fraction."""
    sign = "-" if nanoseconds < 0 else ""
    seconds, rest = divmod(abs(nanoseconds), 1_000_000_000)
    return f"{sign}{seconds}.{rest:09d}".encode()


_TIME = re.compile(rb"(-?)(\d{1,12})(?:\.(\d{1,9}))?")


def parse_time(text: bytes) -> int:
    """Return nanoseconds. Raises ArchiveError."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise ArchiveError(f"{text!r:.40} is not a time", reason="BadHeader")
    total = int(found[2]) * 1_000_000_000 + int((found[3] or b"0").ljust(9, b"0"))
    return -total if found[1] else total


def parse_name(path: bytes, *, is_directory: bool) -> Name:
    """Return the components of *path*; a directory's ends with one slash, the root is ``./``.

    Raises ArchiveError for whatever could lead elsewhere or cannot be a name.
    """
    if is_directory:
        if path == b"./":
            return ()
        if not path.endswith(b"/"):
            raise ArchiveError(f"directory {path!r:.80} lacks its slash", reason="BadName")
        path = path[:-1]
    if not path or len(path) > PATH_BYTES or b"\0" in path:
        raise ArchiveError(f"{path!r:.80} is not a path", reason="BadName")
    name = tuple(path.split(b"/"))
    for component in name:
        if component in (b"", b".", b"..") or len(component) > NAME_BYTES:
            raise ArchiveError(f"{path!r:.80} is not a path below the root", reason="BadName")
    return name


def checksum(block: bytes) -> int:
    """Return the sum over a header block, its own field taken as spaces."""
    return sum(block) - sum(block[148:156]) + 8 * 0x20


def _block(
    path: bytes,
    kind: bytes,
    *,
    size: int,
    mode: int = 0o600,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> bytes:
    head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        path.ljust(100, b"\0"),
        *(mode, uid, gid, size, mtime),
    )
    tail = b"%b%bustar\00000%b%07o\0%07o\0" % (kind, link.ljust(100, b"\0"), bytes(64), *device)
    total = sum(head) + sum(tail) + 8 * 0x20
    return (head + b"%06o\0 " % total + tail).ljust(BLOCK_BYTES, b"\0")


def _padded(data: bytes) -> bytes:
    return data + bytes(padding(len(data)))


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
