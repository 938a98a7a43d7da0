"""Read the IP and TCP/UDP headers of a packet from its first bytes.

The bytes come from outside and may be anything: nothing here raises on content. What cannot be
read is a packet of kind `MALFORMED`; what is well-formed but hides its ports is `FRAGMENT` (not
the first) or `OPAQUE` (headers longer than what was copied).
"""

from __future__ import annotations

import enum
import socket
import struct
from typing import Final, NamedTuple

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10

TCP: Final = socket.IPPROTO_TCP
UDP: Final = socket.IPPROTO_UDP

#: IPv6 extension headers that may stand before TCP or UDP and state their length in 8 bytes
#: (RFC 8200 §4, RFC 6275 mobility, RFC 7401 HIP, RFC 5533 shim6).
_EXTENSIONS: Final = frozenset({0, 43, 60, 135, 139, 140})
_IPV6_FRAGMENT: Final = 44
_IPV6_AUTHENTICATION: Final = 51

_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
_IPV6: Final = struct.Struct("!IHBB16s16s")
_TCP: Final = struct.Struct("!HHIIBBHHH")
_UDP: Final = struct.Struct("!HHHH")


class Kind(enum.Enum):
    """What could be read of a packet."""

    TCP = "tcp"
    UDP = "udp"
    FRAGMENT = "fragment"
    OPAQUE = "opaque"
    OTHER = "other"
    MALFORMED = "malformed"


class Flow(NamedTuple):
    """A conversation as its packets into the pod name it; addresses are canonical text."""

    source: str
    source_port: int
    destination: str
    destination_port: int


class FragmentKey(NamedTuple):
    """What the fragments of one datagram have in common (RFC 791, RFC 8200 §4.5)."""

    source: str
    destination: str
    protocol: int
    identification: int


class Packet(NamedTuple):
    """Headers of one packet; zero where the kind has no such field."""

    kind: Kind
    version: int = 0
    source: str = ""
    source_port: int = 0
    destination: str = ""
    destination_port: int = 0
    flags: int = 0
    sequence: int = 0
    acknowledgement: int = 0
    payload_bytes: int = 0
    #: TCP timestamps option: (TSval, TSecr).
    timestamps: tuple[int, int] | None = None
    #: Set for every fragment, the first one included.
    fragment: FragmentKey | None = None

    @property
    def flow(self) -> Flow:
        """The conversation to which the packet belongs."""
        return Flow(self.source, self.source_port, self.destination, self.destination_port)

    @property
    def opening(self) -> bool:
        """Whether this asks for a new TCP connection."""
        return self.kind is Kind.TCP and self.flags & (SYN | ACK | RST | FIN) == SYN


MALFORMED: Final = Packet(Kind.MALFORMED)


def parse(data: bytes, *, packet_bytes: int | None = None) -> Packet:
    """The headers of an IP packet.

    `data` is what was copied of it, `packet_bytes` its whole length where more was not copied.
    """
    size = max(len(data), packet_bytes or 0)
    if len(data) < _IPV4.size:
        return MALFORMED
    version = data[0] >> 4
    if version == 4:
        return _parse_ipv4(data, size)
    if version == 6 and len(data) >= _IPV6.size:
        return _parse_ipv6(data, size)
    return MALFORMED


def _parse_ipv4(data: bytes, size: int) -> Packet:
    first, _, total, identification, offset, _, protocol, _, source, destination = (
        _IPV4.unpack_from(data)
    )
    header = (first & 15) * 4
    # A total of 0 is "BIG TCP": a segment of more than 64 KiB made by the local stack (6.3).
    end = min(size, total) if total else size
    if header < _IPV4.size or end < header:
        return MALFORMED
    from_, to = (
        socket.inet_ntop(socket.AF_INET, source),
        socket.inet_ntop(socket.AF_INET, destination),
    )
    key = FragmentKey(from_, to, protocol, identification) if offset & 0x3FFF else None
    if offset & 0x1FFF:
        return Packet(Kind.FRAGMENT, 4, from_, 0, to, fragment=key)
    return _parse_transport(
        data, header, end, protocol, Packet(Kind.OTHER, 4, from_, 0, to, fragment=key)
    )


def _parse_ipv6(data: bytes, size: int) -> Packet:
    _, length, protocol, _, source, destination = _IPV6.unpack_from(data)
    from_ = socket.inet_ntop(socket.AF_INET6, source)
    to = socket.inet_ntop(socket.AF_INET6, destination)
    offset = _IPV6.size
    # A length of 0 is a jumbogram or "BIG TCP".
    end = min(size, offset + length) if length else size
    base = Packet(Kind.OTHER, 6, from_, 0, to)
    while True:
        if protocol in _EXTENSIONS or protocol in (_IPV6_FRAGMENT, _IPV6_AUTHENTICATION):
            if offset + 8 > len(data):
                kind = Kind.OPAQUE if end > len(data) else Kind.MALFORMED
                return base._replace(kind=kind)
        else:
            return _parse_transport(data, offset, end, protocol, base)
        following = data[offset]
        if protocol == _IPV6_FRAGMENT:
            where, identification = struct.unpack_from("!HI", data, offset + 2)
            key = FragmentKey(from_, to, 0, identification)
            if where & 0xFFF8:
                return base._replace(kind=Kind.FRAGMENT, fragment=key)
            if where & 1:
                base = base._replace(fragment=key)
            offset += 8
        elif protocol == _IPV6_AUTHENTICATION:
            offset += (data[offset + 1] + 2) * 4
        else:
            offset += (data[offset + 1] + 1) * 8
        protocol = following


def _parse_transport(data: bytes, offset: int, end: int, protocol: int, base: Packet) -> Packet:
    """Fill in ports and, for TCP, what tells a keepalive from data."""
    if protocol not in (TCP, UDP):
        return base
    needed = offset + (_TCP.size if protocol == TCP else _UDP.size)
    if needed > len(data):
        return base._replace(kind=Kind.OPAQUE if needed <= end else Kind.MALFORMED)
    if protocol == UDP:
        source_port, destination_port, _, _ = _UDP.unpack_from(data, offset)
        return base._replace(
            kind=Kind.UDP,
            source_port=source_port,
            destination_port=destination_port,
            payload_bytes=max(0, end - needed),
        )
    source_port, destination_port, sequence, acknowledgement, words, flags, _, _, _ = (
        _TCP.unpack_from(data, offset)
    )
    header = (words >> 4) * 4
    if header < _TCP.size or offset + header > end:
        return base._replace(kind=Kind.MALFORMED)
    return Packet(
        Kind.TCP,
        base.version,
        base.source,
        source_port,
        base.destination,
        destination_port,
        flags,
        sequence,
        acknowledgement,
        end - offset - header,
        _timestamps(data[needed : offset + header]),
        base.fragment,
    )


def _timestamps(options: bytes) -> tuple[int, int] | None:
    """The timestamps among TCP options (RFC 7323 §3)."""
    offset = 0
    while offset < len(options):
        kind = options[offset]
        if kind == 0:
            return None
        if kind == 1:
            offset += 1
            continue
        if offset + 2 > len(options) or options[offset + 1] < 2:
            return None
        if kind == 8 and options[offset + 1] == 10 and offset + 10 <= len(options):
            value, echo = struct.unpack_from("!II", options, offset + 2)
            return value, echo
        offset += options[offset + 1]
    return None
