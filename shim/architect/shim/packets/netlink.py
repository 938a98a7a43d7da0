"""Framing of netlink messages and attributes (linux/netlink.h).

Headers and attribute lengths are in host byte order; what stands in an attribute is the
business of its family. Readers stop at a length that cannot be, they never raise on content.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

NLM_F_REQUEST: Final = 0x001
NLM_F_ACK: Final = 0x004
NLM_F_DUMP: Final = 0x300
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3

NLA_F_NESTED: Final = 0x8000
_NLA_TYPE_MASK: Final = 0x3FFF

NETLINK_ROUTE: Final = 0
NETLINK_SOCK_DIAG: Final = 4
NETLINK_NETFILTER: Final = 12

_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")

#: The largest message a kernel sends in a dump (`min(32 KiB, user's buffer)`, af_netlink.c).
RECEIVE_BYTES: Final = 1 << 16


class Message(NamedTuple):
    """One netlink message without its header."""

    kind: int
    flags: int
    sequence: int
    body: bytes


def attribute(kind: int, data: bytes) -> bytes:
    """An attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def message(kind: int, body: bytes, *, flags: int = 0, sequence: int = 0) -> bytes:
    """A request, padded so that another may follow it in the same send."""
    size = _HEADER.size + len(body)
    return _HEADER.pack(size, kind, NLM_F_REQUEST | flags, sequence, 0) + body + b"\0" * (-size % 4)


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        size, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if size < _HEADER.size or offset + size > len(data):
            return
        yield Message(kind, flags, sequence, data[offset + _HEADER.size : offset + size])
        offset += (size + 3) & ~3


def attributes(data: bytes, *, offset: int = 0) -> dict[int, bytes]:
    """The attributes from `offset` on; of a repeated kind the last one."""
    return dict(each_attribute(data, offset=offset))


def each_attribute(data: bytes, *, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Kind and content of the attributes from `offset` on, in order."""
    while offset + 4 <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < 4 or offset + size > len(data):
            break
        yield kind & _NLA_TYPE_MASK, data[offset + 4 : offset + size]
        offset += (size + 3) & ~3


def error_number(body: bytes) -> int:
    """The errno in an NLMSG_ERROR (0: an acknowledgement)."""
    if len(body) < 4:
        return errno.EBADMSG
    (value,) = struct.unpack_from("=i", body)
    return -int(value)


def dump(sock: socket.socket, request: bytes, *, what: str) -> Iterator[Message]:
    """Send a dump request and give its messages until the kernel says done.

    The kernel fills a dump's datagrams in the caller's own system calls, so a blocking socket
    needs no time-out to be bounded. OSError names `what` was asked.
    """
    sock.send(request)
    while True:
        for answer in messages(sock.recv(RECEIVE_BYTES)):
            if answer.kind == NLMSG_DONE:
                return
            if answer.kind == NLMSG_ERROR:
                number = error_number(answer.body)
                raise OSError(number, f"{what}: {os.strerror(number)}")
            yield answer
