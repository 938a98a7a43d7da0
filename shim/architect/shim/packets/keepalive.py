"""Answer TCP keepalives for sockets that sleep in an image.

A peer that probes an idle connection only wants to hear that the other end still knows it. The
forged acknowledgement carries what the sleeping socket would have sent; it is written to a raw
socket in the pod's network namespace, so that it leaves as the pod's own packets do.
"""

from __future__ import annotations

import contextlib
import socket
import struct

from . import segments
from .gate import SavedConnection
from .headers import ACK, Flow, Packet
from .netns import Netns


def acknowledgement(packet: Packet, saved: SavedConnection) -> bytes:
    """The IP packet that answers a keepalive.

    TSval repeats the last value that the peer saw from us (its TSecr): never ahead of what the
    restored socket sends, and never older than what the peer accepts (RFC 7323 §5).
    """
    options = b""
    if packet.timestamps is not None:
        value, echo = packet.timestamps
        options = struct.pack("!BBBBII", 1, 1, 8, 10, echo, value)
    return segments.build(
        Flow(packet.source, packet.source_port, packet.destination, packet.destination_port),
        sequence=packet.acknowledgement,
        acknowledgement=saved.receive_next,
        flags=ACK,
        window=saved.window,
        options=options,
    )


class KeepaliveAnswerer:
    """Sends acknowledgements in one pod; opens its sockets when first needed."""

    def __init__(self, netns: Netns) -> None:
        self._netns = netns
        self._sockets: dict[int, socket.socket] = {}

    def answer(self, packet: Packet, saved: SavedConnection, *, interface: int) -> bool:
        """Send the answer; False if the system would not, and the peer will ask again."""
        destination: tuple[str, int] | tuple[str, int, int, int] = (packet.source, 0)
        if packet.version == 6:
            # A link-local peer is on the link its packet came from.
            scope = interface if packet.source.startswith("fe80:") else 0
            destination = (packet.source, 0, 0, scope)
        # No route, no buffer, interface down: as if the answer had been lost on the way.
        with contextlib.suppress(OSError):
            self._socket(packet.version).sendto(acknowledgement(packet, saved), destination)
            return True
        return False

    def _socket(self, version: int) -> socket.socket:
        made = self._sockets.get(version)
        if made is None:
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            # IPPROTO_RAW: the header is ours (in IPv6 since Linux 4.5 without IPV6_HDRINCL).
            made = self._netns.open_socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
            made.setblocking(False)
            self._sockets[version] = made
        return made

    def close(self) -> None:
        """Close the sockets."""
        for made in self._sockets.values():
            made.close()
        self._sockets.clear()
