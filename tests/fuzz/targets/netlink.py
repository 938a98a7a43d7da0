"""What the kernel says over netlink; in a pod's namespace it repeats what others made it say."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

from architect.core.errors import NodeError
from architect.shim.packets import netlink, nftables, talkers
from architect.shim.packets.addresses import parse_address
from architect.shim.packets.nfqueue import NfQueue
from architect.shim.packets.sockdiag import parse_socket
from fuzz import mutations
from fuzz.targets import headers

MUTATE = mutations.raw


def queued(packet: bytes, *, identifier: int = 7) -> bytes:
    """Return what nfnetlink_queue says of a packet."""
    body = (
        netlink.attribute(1, struct.pack("!IHB", identifier, 0x0800, 1))
        + netlink.attribute(5, struct.pack("!I", 3))
        + netlink.attribute(10, packet)
        + netlink.attribute(13, struct.pack("!I", len(packet)))
    )
    return netlink.message(3 << 8, bytes(4) + body)


def seeds() -> Iterator[bytes]:
    packet = headers.ipv4(headers.tcp())
    yield queued(packet)
    yield queued(packet) + queued(packet, identifier=8)
    yield netlink.message(netlink.NLMSG_ERROR, struct.pack("=i", -1) + bytes(16))
    ends = socket.inet_aton("10.0.0.2") + bytes(12) + socket.inet_aton("10.0.0.1") + bytes(12)
    info = netlink.attribute(2, bytes(240))
    yield netlink.message(
        20,
        struct.pack("=4B", socket.AF_INET, 1, 0, 0)
        + struct.pack("!HH", 80, 40000)
        + ends
        + bytes(32)
        + info,
    )
    key = socket.inet_aton("10.0.0.7") + struct.pack("!Hxx", 80)
    entry = netlink.nested(
        1,
        netlink.nested(1, netlink.attribute(1, key)),
        netlink.attribute(5, struct.pack("!Q", 9000)),
    )
    yield bytes(4) + netlink.nested(3, entry, entry)
    yield struct.pack("=BBBBI", socket.AF_INET, 24, 0, 0, 1) + netlink.attribute(
        2, socket.inet_aton("10.0.0.2")
    )


def run(data: bytes) -> None:
    for message in netlink.messages(data):
        netlink.error_number(message.body)
        _bodies(message.body)
    _bodies(data)
    _queue(data)


def _bodies(body: bytes) -> None:
    for protocol in ("tcp", "udp"):
        parse_socket(body, protocol=protocol)
    parse_address(body)
    talkers.last(nftables.parse_elements(body))
    taken = sum(4 + len(content) for _, content in netlink.each_attribute(body))
    assert taken <= len(body)


def _queue(data: bytes) -> None:
    """Read *data* as a queue's socket gives it."""
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, kernels:
        ours.setblocking(False)
        kernels.send(data)
        with contextlib.suppress(NodeError):
            for packet in NfQueue(ours, number=1).read():
                assert len(packet.data) <= packet.packet_bytes
                assert 0 <= packet.identifier < 1 << 32
