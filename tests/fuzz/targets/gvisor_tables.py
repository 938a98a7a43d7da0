"""Tables of a sandbox's sockets, which a program of the container has read, or made up."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from architect.shim.gvisor import listeners
from fuzz import mutations

MUTATE = mutations.raw

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
REST = "00000000:00000000 00:00000000 00000000     0        0 18 1 0000000000000000\n"


def seeds() -> Iterator[bytes]:
    for own, state in (
        ("0500000A:1F90", "0A"),
        ("0100007F:1F90", "07"),
        ("0000000000000000FFFF00000500000A:1F90", "0A"),
        ("000000FD000000000000000005000000:0050", "07"),
    ):
        yield f"{HEAD}   0: {own} 00000000:0000 {state} {REST}".encode()
    yield b"cat: /proc/net/udp6: No such file or directory\n"


def run(data: bytes) -> None:
    text = data.decode(errors="replace")
    found = listeners.own(text)
    assert len(found) <= len(text.splitlines())
    for place in found:
        address, _, port = place.rpartition(":")
        assert 0 < int(port) < 1 << 16
        where = ipaddress.ip_address(address.strip("[]"))
        assert not where.is_loopback and not where.is_unspecified
    # What stands before or behind a table changes nothing of it.
    assert listeners.own(f"{HEAD}{text}\n{HEAD}") == found
