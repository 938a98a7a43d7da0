"""Messages to and from the kernel, byte by byte where this kernel cannot check them."""

from __future__ import annotations

import contextlib
import socket
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.shim.packets import netlink, nftables, talkers
from architect.shim.packets.addresses import parse_address
from architect.shim.packets.gate import Origin, SavedConnection
from architect.shim.packets.headers import ACK, Kind, Packet, parse
from architect.shim.packets.keepalive import acknowledgement
from architect.shim.packets.nfqueue import NfQueue, QueuedPacket
from architect.shim.packets.origin import classify
from architect.shim.packets.sockdiag import Socket, parse_socket

SENDER = Socket("tcp", 4, 2, "10.0.0.1", 1, "10.0.0.2", 80, 0, 0, 99)


def test_the_native_queue_expression_has_the_layout_of_nf_tables_h() -> None:
    # Name, then NFTA_QUEUE_NUM, _TOTAL and _FLAGS as 16-bit numbers in network order.
    assert nftables.queue_native(41077, bypass=True) == bytes.fromhex(
        "2c000180" "0a000100" "717565756500" "0000"
        "1c000280" "06000100" "a0750000" "06000200" "00010000" "06000300" "00010000"
    )  # fmt: skip


def test_the_expression_that_notes_a_talker_has_the_layout_of_nf_tables_h() -> None:
    # Name, then NFTA_DYNSET_SET_NAME, _OP (1: update) and _SREG_KEY.
    assert nftables.update("talkers") == bytes.fromhex(
        "30000180" "0b000100" "64796e73657400" "00"
        "20000280" "0c000100" "74616c6b65727300" "08000300" "00000001" "08000400" "00000008"
    )  # fmt: skip


def entry(address: str, port: int, milliseconds: int | None) -> bytes:
    """NFTA_LIST_ELEM as a dump has it: the key, and NFTA_SET_ELEM_EXPIRATION."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    key = socket.inet_pton(family, address) + struct.pack("!Hxx", port)
    expiry = b"" if milliseconds is None else netlink.attribute(5, struct.pack("!Q", milliseconds))
    return netlink.nested(1, netlink.nested(1, netlink.attribute(1, key)), expiry)


def test_the_entry_with_the_most_time_left_spoke_last() -> None:
    whole = talkers.SECONDS * 1000
    listed = [
        entry("10.0.0.7", 80, whole - 9000),
        entry("fd00::7", 443, whole - 2500),
        entry("10.0.0.7", 81, whole - 3000),
        entry("10.0.0.8", 80, None),
    ]
    elements = nftables.parse_elements(bytes(4) + netlink.nested(3, *listed))
    assert len(elements) == 4
    assert talkers.last(elements) == talkers.Talker("fd00::7", 443, 2.5, sources=2)
    # A tick more than the whole is no time to come.
    late = nftables.parse_elements(bytes(4) + netlink.nested(3, entry("10.0.0.7", 80, whole + 4)))
    assert talkers.last(late) == talkers.Talker("10.0.0.7", 80, 0.0, sources=1)
    assert talkers.last([]) is None
    assert talkers.last([nftables.Element(b"short", 5)]) is None


def test_attributes_come_back_as_they_went() -> None:
    data = netlink.attribute(5, b"abc") + netlink.nested(6, netlink.attribute(1, b"x"))
    assert netlink.attributes(data) == {5: b"abc", 6: netlink.attribute(1, b"x")}


@given(data=st.binary(max_size=200))
def test_garbage_from_a_socket_is_read_without_raising(data: bytes) -> None:
    # Nothing is read twice, and nothing that is not there.
    assert sum(len(message.body) for message in netlink.messages(data)) <= len(data)
    assert sum(map(len, netlink.attributes(data).values())) <= len(data)
    nftables.parse_elements(data)
    parse_socket(data, protocol="tcp")
    parse_address(data)


@pytest.mark.parametrize(
    ("version", "source", "destination"),
    [(4, "10.0.0.9", "10.0.0.2"), (6, "fd00::9", "fd00::2")],
)
def test_a_keepalive_is_acknowledged_as_the_sleeping_socket_would(
    version: int, source: str, destination: str
) -> None:
    asked = Packet(Kind.TCP, version, source, 5000, destination, 80, ACK, 999, 777, 0, (111, 222))
    data = acknowledgement(asked, SavedConnection(receive_next=1000, window=300))
    answer = parse(data)
    assert answer == Packet(
        Kind.TCP, version, destination, 80, source, 5000, ACK, 777, 1000, 0, (222, 111)
    )
    header = 20 if version == 4 else 40
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    tcp = data[header:]
    pseudo = socket.inet_pton(family, destination) + socket.inet_pton(family, source)
    pseudo += struct.pack("!IHBB", len(tcp), 0, 0, 6)
    total = sum(struct.unpack(f"!{len(pseudo + tcp) // 2}H", pseudo + tcp))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF, "a checksum that the peer accepts"


@pytest.mark.parametrize(
    ("from_node", "sender", "kubelets", "late", "origin"),
    [
        (False, None, False, False, Origin.REMOTE),
        (False, None, False, True, Origin.REMOTE),
        (True, SENDER, True, False, Origin.KUBELET),
        (True, SENDER, True, True, Origin.KUBELET),
        (True, SENDER, False, False, Origin.NODE),
        (True, None, False, False, Origin.NODE),
        (True, None, False, True, Origin.GONE),
        (True, SENDER._replace(inode=0), False, True, Origin.GONE),
    ],
)
def test_origin_follows_from_what_was_found(
    from_node: bool, sender: Socket | None, kubelets: bool, late: bool, origin: Origin
) -> None:
    assert classify(from_node=from_node, sender=sender, kubelets=kubelets, late=late) is origin


@pytest.mark.parametrize(
    ("family", "attributes", "address"),
    [
        (2, netlink.attribute(1, bytes([10, 0, 0, 1])), "10.0.0.1"),
        # Point to point: the first is the peer's, the second ours.
        (
            2,
            netlink.attribute(1, bytes([10, 0, 0, 9])) + netlink.attribute(2, bytes([10, 0, 0, 1])),
            "10.0.0.1",
        ),
        (10, netlink.attribute(1, bytes([0xFD, *bytes(14), 1])), "fd00::1"),
        (10, netlink.attribute(1, bytes([127, *bytes(14), 1])), "7f00::1"),
        (2, netlink.attribute(2, bytes([127, 0, 0, 1])), None),
        (10, netlink.attribute(1, bytes([*bytes(15), 1])), None),
        (2, netlink.attribute(1, bytes(3)), None),
        (7, netlink.attribute(1, bytes(4)), None),
    ],
)
def test_addresses_are_read_from_notices(
    family: int, attributes: bytes, address: str | None
) -> None:
    assert parse_address(struct.pack("=BBBBI", family, 24, 0, 0, 2) + attributes) == address


def test_packets_of_one_queue_outlive_the_reading_of_another() -> None:
    def message(number: int, payload: bytes) -> bytes:
        # NFQA_PACKET_HDR and NFQA_PAYLOAD behind struct nfgenmsg, in an NFQNL_MSG_PACKET.
        header = netlink.attribute(1, struct.pack("!IHB", number, 0x800, 0))
        return netlink.message(0x300, bytes(4) + header + netlink.attribute(10, payload))

    found = []
    for number in (1, 2):
        kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with kernel, ours:
            ours.setblocking(False)
            kernel.send(message(number, b"%d" % number * 40))
            found += NfQueue(ours, number=number).read()
    assert found == [
        QueuedPacket(1, b"1" * 40, 40, 0),
        QueuedPacket(2, b"2" * 40, 40, 0),
    ]


def test_a_queue_costs_a_node_little_memory() -> None:
    count, most_bytes = 50, 2048  # each pod has one, asleep or awake
    queues = []
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(count)]
        tracemalloc.start()
        opened.callback(tracemalloc.stop)
        for sock in sockets:
            sock.setblocking(False)
            queues.append(NfQueue(sock, number=1))
        used, _ = tracemalloc.get_traced_memory()
    assert len(queues) == count
    assert used < count * most_bytes
