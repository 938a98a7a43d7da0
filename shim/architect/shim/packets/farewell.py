"""Tell the peers of a pod that leaves that their connections have ended.

The sockets went into an image without a word, and the pod's address soon belongs to nobody: a peer
that only listens would wait for a time-out. So each gets the reset that the kernel would have sent.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping

from . import segments
from .gate import SavedConnection
from .headers import ACK, RST, Flow
from .netns import Netns


def reset(flow: Flow, saved: SavedConnection) -> bytes:
    """The IP packet that ends a connection of an image.

    Its sequence number is the one that the peer expects next, which any stack believes (RFC 5961
    §3.2); a reset needs no timestamps (RFC 7323 §5.2).
    """
    return segments.build(
        flow,
        sequence=saved.send_next,
        acknowledgement=saved.receive_next,
        flags=RST | ACK,
        window=0,
    )


def send(netns: Netns, connections: Mapping[Flow, SavedConnection]) -> int:
    """Send a reset for each of *connections* from *netns*; return how many were sent.

    Those within the pod have nobody left to tell. One that cannot be sent is as if lost on the way.
    """
    sent = 0
    for family in (socket.AF_INET, socket.AF_INET6):
        flows = {
            flow: saved
            for flow, saved in connections.items()
            if (":" in flow.source) is (family == socket.AF_INET6)
            and flow.source != flow.destination
            and not _is_loopback(flow.source)
        }
        if not flows:
            continue
        with (
            contextlib.suppress(OSError),
            netns.open_socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
        ):
            raw.setblocking(False)
            for flow, saved in flows.items():
                with contextlib.suppress(OSError):
                    raw.sendto(reset(flow, saved), (flow.source, 0))
                    sent += 1
    return sent


def _is_loopback(address: str) -> bool:
    return address == "::1" or address.startswith("127.")
