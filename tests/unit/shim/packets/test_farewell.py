"""The reset that ends a connection of an image is one that the peer believes."""

from __future__ import annotations

import struct

import pytest

from architect.shim.packets.farewell import reset
from architect.shim.packets.gate import SavedConnection
from architect.shim.packets.headers import ACK, RST, Flow, Kind, parse

SAVED = SavedConnection(receive_next=700, send_next=300, window=64)


@pytest.mark.parametrize(
    "flow",
    [Flow("10.0.0.9", 5000, "10.0.0.2", 80), Flow("fd00::9", 5000, "fd00::2", 80)],
    ids=["IPv4", "IPv6"],
)
def test_it_goes_back_with_the_next_numbers_of_both_directions(flow: Flow) -> None:
    packet = parse(reset(flow, SAVED))
    assert packet.kind is Kind.TCP
    assert (packet.source, packet.source_port) == (flow.destination, flow.destination_port)
    assert (packet.destination, packet.destination_port) == (flow.source, flow.source_port)
    assert (packet.sequence, packet.acknowledgement) == (300, 700)
    assert packet.flags == RST | ACK


def test_its_checksum_is_right() -> None:
    data = reset(Flow("10.0.0.9", 5000, "10.0.0.2", 80), SAVED)
    segment = data[20:]
    pseudo = data[12:20] + struct.pack("!BBH", 0, 6, len(segment))
    total = sum(struct.unpack(f"!{(len(pseudo) + len(segment)) // 2}H", pseudo + segment))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF
