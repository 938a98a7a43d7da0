"""Protocol buffers on the wire, without a schema: fields in, fields out, in their order.

CRIU's images are lists of messages; the few fields that matter here are known by number to those
who read them. What cannot be read is a FormatError that names the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from architect.core.errors import FormatError

#: IMG_COMMON_MAGIC and the magic of the file's own type (CRIU's magic.h, images of version 1.1).
_COMMON_MAGIC: Final = 0x54564319
MAGICS_BYTES: Final = 8
#: An entry is a few hundred bytes; a length beyond this is not one.
MAX_ENTRY_BYTES: Final = 1 << 20

VARINT: Final = 0
BYTES: Final = 2
_FIXED: Final = {1: 8, 5: 4}

#: A field: its number and wire type as they stand before the value, and the value.
Field = tuple[int, int | bytes]


def entries(path: Path, *, most_bytes: int = MAX_ENTRY_BYTES) -> Iterator[bytes]:
    """The entries of an image file; payload behind one is the reader's to leave alone."""
    with path.open("rb") as file:
        yield from entries_of(file, path, most_bytes=most_bytes)


def entries_of(file: BinaryIO, path: Path, *, most_bytes: int = MAX_ENTRY_BYTES) -> Iterator[bytes]:
    """As `entries`, of an open file that is at its beginning."""
    magics = file.read(MAGICS_BYTES)
    if len(magics) < MAGICS_BYTES or struct.unpack_from("=I", magics)[0] != _COMMON_MAGIC:
        raise FormatError(f"{path}: not a CRIU image of version 1.1")
    yield from framed(file, path, most_bytes=most_bytes)


def framed(file: BinaryIO, path: Path, *, most_bytes: int = MAX_ENTRY_BYTES) -> Iterator[bytes]:
    """The entries that follow in an open file whose magics were read."""
    while len(prefix := file.read(4)) == 4:
        (size,) = struct.unpack("=I", prefix)
        data = file.read(size) if size <= most_bytes else b""
        if len(data) < size:
            raise FormatError(f"{path}: an entry of {size} bytes is cut short")
        yield data
    if prefix:
        raise FormatError(f"{path}: ends within an entry")


def rewrite(path: Path, change: Callable[[bytes], bytes | None]) -> int:
    """Have *change* give each entry of an image file anew; return how many it gave.

    None: it stays as it is. The file is replaced as a whole, or not touched. Raises FormatError,
    OSError, and what *change* raises.
    """
    changed = 0
    out = [path.read_bytes()[:MAGICS_BYTES]]
    for entry in entries(path):
        new = change(entry)
        changed += new is not None
        data = entry if new is None else new
        out.append(struct.pack("=I", len(data)) + data)
    if changed:
        beside = path.with_name(f"{path.name}.new")
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(b"".join(out))
        beside.rename(path)
    return changed


def fields(data: bytes, path: Path) -> Iterator[Field]:
    """The fields of a message, in order."""
    offset = 0
    while offset < len(data):
        key, offset = _varint(data, offset, path)
        kind = key & 7
        if kind == VARINT:
            value, offset = _varint(data, offset, path)
            yield key, value
            continue
        if kind == BYTES:
            size, offset = _varint(data, offset, path)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise FormatError(f"{path}: unknown wire type {kind}")
        if offset + size > len(data):
            raise FormatError(f"{path}: a field is longer than its message")
        yield key, data[offset : offset + size]
        offset += size


def message(found: Iterable[Field]) -> bytes:
    """The message that holds these fields."""
    parts = []
    for key, value in found:
        parts.append(_encoded(key))
        if isinstance(value, int):
            parts.append(_encoded(value))
            continue
        if key & 7 == BYTES:
            parts.append(_encoded(len(value)))
        parts.append(value)
    return b"".join(parts)


def replaced(
    data: bytes, numbers: Sequence[int], change: Callable[[bytes], bytes | None], path: Path
) -> bytes | None:
    """The message in which *change* gave what the fields *numbers* lead to anew, one in another.

    None: it stays as it is, since *change* gave nothing else for any of them.
    """
    if not numbers:
        return change(data)
    found = list(fields(data, path))
    is_changed = False
    for at, (key, value) in enumerate(found):
        if key >> 3 != numbers[0] or not isinstance(value, bytes):
            continue
        new = replaced(value, numbers[1:], change, path)
        if new is not None:
            found[at] = key, new
            is_changed = True
    return message(found) if is_changed else None


def packed(values: Iterable[int]) -> bytes:
    """The content of a packed repeated field."""
    return b"".join(map(_encoded, values))


def unpacked(data: bytes, path: Path) -> list[int]:
    """The values of a packed repeated field."""
    values, offset = [], 0
    while offset < len(data):
        value, offset = _varint(data, offset, path)
        values.append(value)
    return values


def _varint(data: bytes, offset: int, path: Path) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if offset >= len(data):
            break
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
    raise FormatError(f"{path}: a number has no end")


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
