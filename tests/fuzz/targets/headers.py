"""IP packets from anybody, as far as they are copied to us, through to what is done with them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from architect.shim.packets import farewell
from architect.shim.packets.gate import (
    Action,
    Knowledge,
    Listener,
    Mode,
    Origin,
    SavedConnection,
    decide,
    wants_origin,
)
from architect.shim.packets.headers import ACK, PSH, SYN, Kind, parse
from architect.shim.packets.keepalive import acknowledgement
from fuzz import mutations

MUTATE = mutations.raw

SAVED = SavedConnection(receive_next=1001, window=502, send_next=2000)
LISTENERS = (
    Listener(protocol="tcp", address="0.0.0.0", port=80),
    Listener(protocol="tcp", address="::", port=80, wakes=False),
    Listener(protocol="udp", address="10.0.0.2", port=53),
    Listener(protocol="udp", address="fd00::2", port=53, peer=("fd00::1", 40000)),
)


def ipv4(payload: bytes, *, protocol: int = 6, options: bytes = b"", fragment: int = 0) -> bytes:
    """Return a packet from 10.0.0.1 to 10.0.0.2."""
    size = 20 + len(options)
    first = 0x40 | size // 4
    ends = socket.inet_aton("10.0.0.1"), socket.inet_aton("10.0.0.2")
    return (
        struct.pack(
            "!BBHHHBBH4s4s", first, 0, size + len(payload), 77, fragment, 64, protocol, 0, *ends
        )
        + options
        + payload
    )


def ipv6(payload: bytes, *, following: int = 6) -> bytes:
    """Return a packet from fd00::1 to fd00::2."""
    ends = b"".join(socket.inet_pton(socket.AF_INET6, f"fd00::{last}") for last in (1, 2))
    return struct.pack("!IHBB", 6 << 28, len(payload), following, 64) + ends + payload


def tcp(data: bytes = b"", *, flags: int = SYN, options: bytes = b"") -> bytes:
    """Return a segment to port 80."""
    words = (20 + len(options)) // 4 << 4
    head = struct.pack("!HHIIBBHHH", 40000, 80, 1000, 2000, words, flags, 512, 0, 0)
    return head + options + data


def seeds() -> Iterator[bytes]:
    timestamps = struct.pack("!BBBBII", 1, 1, 8, 10, 111, 222)
    udp = struct.pack("!HHHH", 40000, 53, 12, 0) + b"ask!"
    yield ipv4(tcp())
    yield ipv4(tcp(b"hello", flags=ACK | PSH, options=timestamps), options=bytes(8))
    yield ipv4(tcp(b"\0", flags=ACK, options=timestamps))
    yield ipv4(udp, protocol=17, fragment=0x2000)
    yield ipv4(b"rest", protocol=17, fragment=0x2001)
    yield ipv6(tcp(flags=ACK))
    yield ipv6(bytes([6, 0]) + bytes(6) + tcp(), following=0)
    yield ipv6(bytes([44, 0]) + bytes(6) + struct.pack("!BBHI", 17, 0, 1, 9) + udp, following=43)
    yield ipv6(bytes([17, 4]) + bytes(22) + udp, following=51)


def run(data: bytes) -> None:
    copied = data[:128]
    for packet in (parse(copied), parse(copied, packet_bytes=len(data))):
        assert packet.payload_bytes >= 0
        if packet.kind in (Kind.TCP, Kind.UDP):
            assert 0 <= packet.source_port < 65536
            assert 0 <= packet.destination_port < 65536
            socket.inet_pton(
                socket.AF_INET if packet.version == 4 else socket.AF_INET6, packet.source
            )
        knowledge = Knowledge(
            listeners=LISTENERS,
            connections={packet.flow: SAVED},
            probe_ports=frozenset({80}),
            answered_ports=frozenset({8080}),
        )
        wants_origin(packet, knowledge)
        for mode in Mode:
            for origin in Origin:
                action = decide(packet, mode=mode, knowledge=knowledge, origin=origin).action
                # Nothing is ever thrown away that nobody answers, and nothing runs to be answered.
                assert action is not Action.DROP
                if action is Action.ANSWER_KEEPALIVE:
                    answer = parse(acknowledgement(packet, SAVED))
                    assert answer.kind is Kind.TCP
                    assert answer.source == packet.destination
        if packet.kind is Kind.TCP:
            assert parse(farewell.reset(packet.flow, SAVED)).kind is Kind.TCP
