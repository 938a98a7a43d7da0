"""May the managed containers be frozen now? Pure decisions over a list of sockets.

CRIU cannot save a connection that is half-open or not accepted yet, and nobody wakes an
application that was frozen while a request of a client's was in its hands. So the sleep waits
until nothing is half-open, unaccepted, unread, unacknowledged or unanswered; new requests wait at
the gate meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from . import sockdiag
from .sockdiag import Socket

#: The ages of data are those of jiffies (1 to 10 ms): a request right behind a reply looks older
#: than it is. Nothing is believed that is newer than this.
SETTLE_SECONDS: Final = 0.05

#: After so long a request counts as one that is never answered (one-way protocols).
GRACE_SECONDS: Final = 30.0

#: The same for the application's own questions; an answer that comes later wakes it.
OWN_GRACE_SECONDS: Final = 2.0

_TALKING: Final = frozenset(
    {
        sockdiag.ESTABLISHED,
        sockdiag.FIN_WAIT1,
        sockdiag.FIN_WAIT2,
        sockdiag.CLOSE_WAIT,
        sockdiag.LAST_ACK,
        sockdiag.CLOSING,
    }
)
_HALF_OPEN: Final = frozenset({sockdiag.SYN_RECV, sockdiag.NEW_SYN_RECV})
#: The peer has sent its FIN, which counts as one unread byte until the application reads it.
_PEER_DONE: Final = frozenset({sockdiag.CLOSE_WAIT, sockdiag.LAST_ACK, sockdiag.CLOSING})


def busy(
    sockets: Iterable[Socket], *, inodes: Collection[int], is_brief: bool = False
) -> str | None:
    """Why the containers that own `inodes` must not be frozen now; None: they may be.

    The text names peer and port, for the reason of a refused sleep. `is_brief`: they are woken
    right after it, so that a connection's data may wait where it is; it is part of the image.
    """
    rows = list(sockets)
    listening = {
        row.local_port
        for row in rows
        if row.protocol == "tcp" and row.state == sockdiag.LISTEN and row.inode in inodes
    }
    for row in rows:
        reason = _busy_row(row, inodes=inodes, listening=listening, is_brief=is_brief)
        if reason is not None:
            return reason
    return None


def _busy_row(
    row: Socket, *, inodes: Collection[int], listening: set[int], is_brief: bool
) -> str | None:
    if row.protocol == "udp":
        if row.inode in inodes and row.receive_queue:
            return f"unread datagrams on port {row.local_port}"
        return None
    if row.state in _HALF_OPEN:
        if row.local_port in listening:
            return f"half-open connection from {_peer(row)} to port {row.local_port}"
        return None
    if row.inode not in inodes:
        return None
    if row.state == sockdiag.LISTEN:
        if row.receive_queue:
            return f"{row.receive_queue} connections to port {row.local_port} not accepted yet"
        return None
    if row.state == sockdiag.SYN_SENT:
        return f"connecting to {_peer(row)}"
    if row.state in _TALKING and not is_brief:
        return _busy_connection(row, serving=row.local_port in listening)
    return None


def _busy_connection(row: Socket, *, serving: bool) -> str | None:
    where = f"on port {row.local_port}" if serving else f"from port {row.local_port}"
    if row.receive_queue > (1 if row.state in _PEER_DONE else 0):
        return f"unread bytes from {_peer(row)} {where}"
    if row.send_queue:
        return f"unacknowledged bytes to {_peer(row)} {where}"
    ages = row.ages
    if ages is None:
        return None
    asked, answered = ages.since_received_seconds, ages.since_sent_seconds
    asks, answers = ages.data_segments_in, ages.data_segments_out
    grace = GRACE_SECONDS
    if not serving:
        asked, answered, asks, answers = answered, asked, answers, asks
        grace = OWN_GRACE_SECONDS
    if not asks:
        return None
    open_ = asked < answered or not answers
    if asked < SETTLE_SECONDS or (open_ and asked < grace):
        if serving:
            return f"request of {_peer(row)} {where} not answered yet"
        return f"waiting for an answer of {_peer(row)}"
    return None


def has_half_open(sockets: Iterable[Socket], *, ports: Collection[int]) -> bool:
    """Whether a handshake with one of these local TCP ports has begun and not ended."""
    return any(row.state in _HALF_OPEN and row.local_port in ports for row in sockets)


def _peer(row: Socket) -> str:
    address = f"[{row.remote}]" if ":" in row.remote else row.remote
    return f"{address}:{row.remote_port}"
