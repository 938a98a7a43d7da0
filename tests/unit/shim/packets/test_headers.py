"""Headers are read from whatever arrives, and nothing that arrives raises."""

from __future__ import annotations

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from architect.shim.packets.headers import ACK, PSH, SYN, FragmentKey, Kind, Packet, parse

TIMESTAMPS = struct.pack("!BBBBII", 1, 1, 8, 10, 111, 222)


def ipv4(
    payload: bytes, *, protocol: int = 6, options: bytes = b"", fragment: int = 0, total: int = -1
) -> bytes:
    header = 20 + len(options)
    return (
        struct.pack(
            "!BBHHHBBH4s4s",
            0x40 | header // 4,
            0,
            header + len(payload) if total < 0 else total,
            77,
            fragment,
            64,
            protocol,
            0,
            socket.inet_aton("10.0.0.1"),
            socket.inet_aton("10.0.0.2"),
        )
        + options
        + payload
    )


def ipv6(payload: bytes, *, following: int = 6) -> bytes:
    source = socket.inet_pton(socket.AF_INET6, "fd00::1")
    destination = socket.inet_pton(socket.AF_INET6, "fd00::2")
    return (
        struct.pack("!IHBB", 6 << 28, len(payload), following, 64) + source + destination + payload
    )


def tcp(data: bytes = b"", *, flags: int = SYN, options: bytes = b"") -> bytes:
    words = (20 + len(options)) // 4 << 4
    return (
        struct.pack("!HHIIBBHHH", 40000, 80, 1000, 2000, words, flags, 512, 0, 0) + options + data
    )


def udp(data: bytes = b"") -> bytes:
    return struct.pack("!HHHH", 40000, 53, 8 + len(data), 0) + data


def test_a_tcp_segment_over_ipv4_is_read() -> None:
    packet = parse(ipv4(tcp(b"hello", flags=ACK | PSH, options=TIMESTAMPS), options=bytes(8)))
    assert packet == Packet(
        Kind.TCP, 4, "10.0.0.1", 40000, "10.0.0.2", 80, ACK | PSH, 1000, 2000, 5, (111, 222)
    )
    assert not packet.opening


def test_ipv6_extension_headers_are_passed_over() -> None:
    hop_by_hop = bytes([60, 0]) + bytes(6)
    destination_options = bytes([6, 1]) + bytes(14)
    packet = parse(ipv6(hop_by_hop + destination_options + tcp(b"xyz"), following=0))
    assert (packet.kind, packet.source, packet.destination_port) == (Kind.TCP, "fd00::1", 80)
    assert packet.payload_bytes == 3
    assert packet.opening


def test_the_payload_is_measured_by_the_whole_packet_and_not_by_what_was_copied() -> None:
    whole = ipv4(tcp(bytes(1000), flags=ACK))
    assert parse(whole[:128], packet_bytes=len(whole)).payload_bytes == 1000


def test_a_big_tcp_segment_states_no_length() -> None:
    whole = ipv4(tcp(bytes(100), flags=ACK), total=0)
    assert parse(whole[:60], packet_bytes=100_000).payload_bytes == 100_000 - 40


def test_link_padding_is_not_payload() -> None:
    assert parse(ipv4(udp(b"ab"), protocol=17) + bytes(18)).payload_bytes == 2


def test_fragments_carry_what_they_have_in_common() -> None:
    key = FragmentKey("10.0.0.1", "10.0.0.2", 17, 77)
    first = parse(ipv4(udp(bytes(64)), protocol=17, fragment=0x2000))
    assert (first.kind, first.fragment, first.destination_port) == (Kind.UDP, key, 53)
    later = parse(ipv4(bytes(64), protocol=17, fragment=0x0009))
    assert (later.kind, later.fragment) == (Kind.FRAGMENT, key)
    key6 = FragmentKey("fd00::1", "fd00::2", 0, 99)
    first = parse(ipv6(struct.pack("!BBHI", 17, 0, 1, 99) + udp(bytes(64)), following=44))
    assert (first.kind, first.fragment) == (Kind.UDP, key6)
    later = parse(ipv6(struct.pack("!BBHI", 17, 0, 8 << 3, 99) + bytes(64), following=44))
    assert (later.kind, later.fragment) == (Kind.FRAGMENT, key6)


def test_ports_beyond_the_copy_are_opaque_and_beyond_the_packet_malformed() -> None:
    long = bytes([6, 15]) + bytes(126)
    whole = ipv6(long + tcp(), following=60)
    assert parse(whole[:128], packet_bytes=len(whole)).kind is Kind.OPAQUE
    assert parse(ipv4(tcp()[:10])).kind is Kind.MALFORMED


def test_other_protocols_are_not_ours() -> None:
    assert parse(ipv4(bytes(8), protocol=1)).kind is Kind.OTHER


@given(data=st.binary(max_size=200), claimed=st.integers(min_value=0, max_value=1 << 17))
def test_garbage_is_read_without_raising(data: bytes, claimed: int) -> None:
    packet = parse(data, packet_bytes=claimed)
    assert packet.payload_bytes >= 0


def whole_words(options: bytes) -> bytes:
    return options[: len(options) & ~3]


@given(
    data=st.one_of(
        st.builds(lambda o: ipv4(tcp(b"x", options=o)), st.binary(max_size=40).map(whole_words)),
        st.builds(lambda e: ipv6(e + tcp(), following=0), st.binary(max_size=100)),
        st.builds(lambda b: ipv4(b, protocol=17), st.binary(max_size=20)),
    ),
    keep=st.integers(min_value=0, max_value=128),
)
def test_damaged_headers_are_read_without_raising(data: bytes, keep: int) -> None:
    for read in (parse(data[:keep], packet_bytes=len(data)), parse(data)):
        assert isinstance(read.kind, Kind)
