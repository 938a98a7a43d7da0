"""Sockets of a sandbox that wait at an address of its pod's own, by its own tables. Pure.

Another pod has another address. runc's pods are given images in which that is changed
(:mod:`architect.shim.packets.rebinding`); in gVisor's nothing can be, so there such a socket waits
where nobody comes. Wildcards, the loopback and groups are the same in every pod.

The tables are those of Linux, /proc/net/tcp and its like, read by a program of the container: what
it says may be anything, and is about that pod alone.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final

TABLES: Final = ("/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6")
"""gVisor's last one is empty."""

COMMAND: Final = ("cat", *TABLES)
"""All at once: each command in a sandbox takes a tenth of a second."""

MAX_BYTES: Final = 1 << 19
"""Of the tables: 3,000 sockets. What comes before is not looked at."""

LISTEN: Final = "0A"
UNCONNECTED: Final = "07"
"""Of UDP: it takes what anybody sends."""

_MAPPED: Final = bytes(10) + b"\xff\xff"
_COLUMNS: Final = 4
"""Of a line, as far as it is looked at: number, own address, the other's, state."""


def are_tables(text: str) -> bool:
    """Whether it is what :data:`COMMAND` says where it can be run."""
    return "local_address" in text


def own(tables: str) -> Sequence[str]:
    """Return where sockets wait that only this pod can have, each as ``address:port``, in order.

    Lines that are none of such a table are left out.
    """
    found = {}
    for line in tables.splitlines():
        words = line.split(maxsplit=_COLUMNS)
        if len(words) < _COLUMNS or words[3] not in (LISTEN, UNCONNECTED):
            continue
        for address, port in _places(words[1]):
            if not _is_everywhere(address):
                found[len(address), address, port] = f"{_text(address)}:{port}"
    return [found[key] for key in sorted(found)]


def _places(text: str) -> Iterator[tuple[bytes, int]]:
    """Yield what ``0100007F:1F90`` says: words in the order of the machine's bytes, and a port.

    The address is packed. One of IPv4 that is written as one of IPv6 is that of IPv4.
    """
    address, _, port = text.partition(":")
    try:
        raw = bytes.fromhex(address)
        number = int(port, 16)
    except ValueError:
        return
    if not 0 < number < 1 << 16 or len(raw) not in (4, 16):
        return
    words = struct.unpack(f">{len(raw) // 4}I", raw)
    packed = struct.pack(f"={len(words)}I", *words)
    yield packed.removeprefix(_MAPPED), number


def _is_everywhere(address: bytes) -> bool:
    """Whether each pod has that address: a wildcard, the loopback, or a group."""
    if len(address) == 4:
        return not any(address) or address[0] == 127 or 224 <= address[0] < 240
    return (not any(address[:15]) and address[15] <= 1) or address[0] == 0xFF


def _text(address: bytes) -> str:
    if len(address) == 4:
        return socket.inet_ntop(socket.AF_INET, address)
    return f"[{socket.inet_ntop(socket.AF_INET6, address)}]"
