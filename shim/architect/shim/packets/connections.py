"""The sockets in a CRIU image: which connections sleep in it, and where it listens.

Field numbers are those of CRIU's images/fdinfo.proto (FileEntry), sk-inet.proto and
tcp-stream.proto. An image is a file of our own node, but it may be cut short or of a version that
is not known: whatever cannot be read is a FormatError that names the file.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from architect.core.errors import FormatError

from .gate import Listener, SavedConnection
from .headers import TCP, UDP, Flow
from .sockdiag import LISTEN

#: IMG_COMMON_MAGIC and the magic of the file's own type (CRIU's magic.h, images of version 1.1).
_COMMON_MAGIC: Final = 0x54564319
_MAGICS_BYTES: Final = 8
#: An entry is a few hundred bytes; a length beyond this is not one.
_MAX_ENTRY_BYTES: Final = 1 << 20

_FILE_ENTRY_INET: Final = 4

#: What a socket offers that says nothing: what fits in a header without scaling.
_DEFAULT_WINDOW: Final = 501

#: A protobuf message: field number → values, as integers or bytes.
_Message = dict[int, list[int | bytes]]


@dataclass(frozen=True)
class ImageSockets:
    """The sockets of one image."""

    connections: dict[Flow, SavedConnection]
    listeners: tuple[Listener, ...]


def read_image(
    directory: Path, *, quiet: bool = False, shadow_ports: Collection[int] = ()
) -> ImageSockets:
    """Read the sockets of an image directory. FormatError, OSError.

    `quiet` says that only exec wakes the container; then, as on `shadow_ports`, data on its
    connections and requests to its ports wait without waking.
    """
    connections: dict[Flow, SavedConnection] = {}
    listeners: list[Listener] = []
    path = directory / "files.img"
    for entry in _entries(path):
        for raw in entry.get(_FILE_ENTRY_INET, []):
            if not isinstance(raw, bytes):
                raise FormatError(f"{path}: an inet socket is not a message")
            fields = _message(raw, path)
            protocol, state = _integer(fields, 5, path), _integer(fields, 6, path)
            local_port, remote_port = _integer(fields, 7, path), _integer(fields, 8, path)
            local = _address(fields, 11, path)
            wakes = not quiet and local_port not in shadow_ports
            if protocol == UDP or (protocol == TCP and state == LISTEN):
                listeners.append(
                    Listener(
                        protocol="udp" if protocol == UDP else "tcp",
                        address=local,
                        port=local_port,
                        v6only=bool(_integer(fields, 15, path, default=0)),
                        wakes=wakes,
                        peer=(_address(fields, 12, path), remote_port)
                        if protocol == UDP and remote_port
                        else None,
                    )
                )
                continue
            stream = directory / f"tcp-stream-{_integer(fields, 2, path):x}.img"
            if protocol != TCP or not stream.exists():
                continue
            flow = Flow(_address(fields, 12, path), remote_port, local, local_port)
            connections[flow] = _saved(stream, wakes=wakes)
    return ImageSockets(connections, tuple(listeners))


def _saved(path: Path, *, wakes: bool) -> SavedConnection:
    entry = next(_entries(path), None)
    if entry is None:
        raise FormatError(f"{path}: holds no tcp stream")
    window = _integer(entry, 16, path, default=0) >> min(14, _integer(entry, 8, path, default=0))
    return SavedConnection(
        receive_next=_integer(entry, 2, path) & 0xFFFFFFFF,
        window=min(window, 0xFFFF) or _DEFAULT_WINDOW,
        wakes=wakes,
    )


def _entries(path: Path) -> Iterator[_Message]:
    """The entries of an image file; payload behind the first is the reader's to leave alone."""
    with path.open("rb") as file:
        magics = file.read(_MAGICS_BYTES)
        if len(magics) < _MAGICS_BYTES or struct.unpack_from("=I", magics)[0] != _COMMON_MAGIC:
            raise FormatError(f"{path}: not a CRIU image of version 1.1")
        while len(prefix := file.read(4)) == 4:
            (size,) = struct.unpack("=I", prefix)
            data = file.read(size) if size <= _MAX_ENTRY_BYTES else b""
            if len(data) < size:
                raise FormatError(f"{path}: an entry of {size} bytes is cut short")
            yield _message(data, path)
        if prefix:
            raise FormatError(f"{path}: ends within an entry")


def _message(data: bytes, path: Path) -> _Message:
    fields: _Message = {}
    offset = 0
    while offset < len(data):
        key, offset = _varint(data, offset, path)
        value: int | bytes
        match key & 7:
            case 0:
                value, offset = _varint(data, offset, path)
            case 2:
                size, offset = _varint(data, offset, path)
                value, offset = data[offset : offset + size], offset + size
            case 1:
                value, offset = data[offset : offset + 8], offset + 8
            case 5:
                value, offset = data[offset : offset + 4], offset + 4
            case _:
                raise FormatError(f"{path}: unknown wire type {key & 7}")
        if offset > len(data):
            raise FormatError(f"{path}: a field is longer than its message")
        fields.setdefault(key >> 3, []).append(value)
    return fields


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


def _integer(fields: _Message, number: int, path: Path, *, default: int | None = None) -> int:
    value = fields.get(number, [default if default is not None else b""])[-1]
    if not isinstance(value, int):
        raise FormatError(f"{path}: field {number} is missing or not a number")
    return value


def _address(fields: _Message, number: int, path: Path) -> str:
    """Repeated 32-bit words, one by one or packed, in the order of memory."""
    words: list[int] = []
    for value in fields.get(number, []):
        if isinstance(value, int):
            words.append(value)
            continue
        offset = 0
        while offset < len(value):
            word, offset = _varint(value, offset, path)
            words.append(word)
    raw = b"".join(struct.pack("=I", word & 0xFFFFFFFF) for word in words)
    if len(raw) == 4:
        return socket.inet_ntop(socket.AF_INET, raw)
    if len(raw) == 16:
        return socket.inet_ntop(socket.AF_INET6, raw).removeprefix("::ffff:")
    raise FormatError(f"{path}: an address of {len(raw)} bytes")
