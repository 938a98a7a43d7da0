"""TCP segments that the pod would have sent, for a raw socket in its network namespace."""

from __future__ import annotations

import socket
import struct
from typing import Final

from .headers import TCP, Flow

_TCP_HEADER: Final = struct.Struct("!HHIIBBHHH")
_DONT_FRAGMENT: Final = 0x4000
_HOPS: Final = 64


def build(
    flow: Flow,
    *,
    sequence: int,
    acknowledgement: int,
    flags: int,
    window: int,
    options: bytes = b"",
) -> bytes:
    """The IP packet without data that goes back on *flow*, which names the packets into the pod.

    *options* are a whole number of 32-bit words.
    """
    length = _TCP_HEADER.size + len(options)
    fields = (
        flow.destination_port,
        flow.source_port,
        sequence,
        acknowledgement,
        length // 4 << 4,
        flags,
        window,
    )
    family = socket.AF_INET6 if ":" in flow.source else socket.AF_INET
    source = socket.inet_pton(family, flow.destination)
    destination = socket.inet_pton(family, flow.source)
    pseudo = source + destination + struct.pack("!IHBB", length, 0, 0, TCP)
    sum_ = _checksum(pseudo + _TCP_HEADER.pack(*fields, 0, 0) + options)
    segment = _TCP_HEADER.pack(*fields, sum_, 0) + options
    if family == socket.AF_INET:
        # The kernel fills in identification and header checksum (raw(7)).
        header = struct.pack(
            "!BBHHHBBH4s4s",
            0x45, 0, 20 + length, 0, _DONT_FRAGMENT, _HOPS, TCP, 0, source, destination,
        )  # fmt: skip
    else:
        header = struct.pack("!IHBB16s16s", 6 << 28, length, TCP, _HOPS, source, destination)
    return header + segment


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
