"""The sockets in a CRIU image: which connections sleep in it, and where it listens.

Field numbers are those of CRIU's images/fdinfo.proto (FileEntry), sk-inet.proto and
tcp-stream.proto. An image is a file of our own node, but it may be cut short or of a version that
is not known: whatever cannot be read is a FormatError that names the file.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from architect.core.errors import FormatError

from . import protobuf
from .gate import Listener, SavedConnection
from .headers import TCP, UDP, Flow
from .sockdiag import LISTEN

FILE_ENTRY_INET: Final = 4
INET_PROTOCOL: Final = 5
INET_STATE: Final = 6
INET_SOURCE: Final = 11

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
        for raw in entry.get(FILE_ENTRY_INET, []):
            if not isinstance(raw, bytes):
                raise FormatError(f"{path}: an inet socket is not a message")
            fields = _message(raw, path)
            protocol = _integer(fields, INET_PROTOCOL, path)
            state = _integer(fields, INET_STATE, path)
            local_port, remote_port = _integer(fields, 7, path), _integer(fields, 8, path)
            local = _address(fields, INET_SOURCE, path)
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
        # outq_seq is behind the last byte that the application wrote; unsq_len were not sent yet.
        send_next=(_integer(entry, 4, path, default=0) - _integer(entry, 12, path, default=0))
        & 0xFFFFFFFF,
    )


def _entries(path: Path) -> Iterator[_Message]:
    for data in protobuf.entries(path):
        yield _message(data, path)


def _message(data: bytes, path: Path) -> _Message:
    found: _Message = {}
    for key, value in protobuf.fields(data, path):
        found.setdefault(key >> 3, []).append(value)
    return found


def _integer(fields: _Message, number: int, path: Path, *, default: int | None = None) -> int:
    value = fields.get(number, [default if default is not None else b""])[-1]
    if not isinstance(value, int):
        raise FormatError(f"{path}: field {number} is missing or not a number")
    return value


def _address(fields: _Message, number: int, path: Path) -> str:
    """Repeated 32-bit words, one by one or packed, in the order of memory."""
    words: list[int] = []
    for value in fields.get(number, []):
        words += [value] if isinstance(value, int) else protobuf.unpacked(value, path)
    return address_of(words, path)


def address_of(words: Sequence[int], path: Path) -> str:
    """The address that stands in an image as 32-bit words in the order of memory."""
    raw = b"".join(struct.pack("=I", word & 0xFFFFFFFF) for word in words)
    if len(raw) == 4:
        return socket.inet_ntop(socket.AF_INET, raw)
    if len(raw) == 16:
        return socket.inet_ntop(socket.AF_INET6, raw).removeprefix("::ffff:")
    raise FormatError(f"{path}: an address of {len(raw)} bytes")
