"""Who sent what counts: the addresses that a pod's rules last saw, and to which port each came.

The rules keep them by themselves, in one set per family: each packet that the counter `remote`
counts sets its entry's time-out anew, so the entry with the most time left spoke last. Nothing is
logged and nothing wakes up; the keeper reads the set when it is asked about the pod.

The set is bounded. A full one takes no new entry, which no packet notices: the entry is the last
thing that its rule does. Whoever reads a full set empties it, so that a flood of made-up addresses
hides the others until the next look, not until it times out.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from . import nftables
from .nftables import NFPROTO_IPV4, Batch, Element

SET: Final = "talkers"

#: Entries per family: some 25 kB of kernel memory, 0.4 ms to read.
BOUND: Final = 256

#: How long one is remembered. More than the longest time between two looks at a pod (15 s), and
#: short enough for a number of sources that is of now.
SECONDS: Final = 600

#: The kernel would look for old entries each second, in each pod.
_COLLECT_SECONDS: Final = 60


@dataclass(frozen=True)
class Talker:
    """Who spoke last."""

    address: str
    #: The pod's port to which it spoke.
    port: int
    seconds_ago: float
    #: How many addresses spoke within `SECONDS`, this one included; at least, after a flood.
    sources: int


def add_set(batch: Batch, family: int, table: str) -> None:
    """Make the family's set unless it is there; one that is there keeps its entries."""
    version4 = family == NFPROTO_IPV4
    batch.add_set(
        family,
        table,
        SET,
        types=(nftables.TYPE_IPV4 if version4 else nftables.TYPE_IPV6, nftables.TYPE_SERVICE),
        length=(4 if version4 else 16) + 4,
        timeout_seconds=SECONDS,
        collect_seconds=_COLLECT_SECONDS,
        dynamic_bound=BOUND,
    )


def read(sock: socket.socket, table: str, families: Iterable[int]) -> Talker | None:
    """Who spoke last; None if nobody did, or there is no set. OSError, NodeError."""
    found: list[Element] = []
    full = Batch()
    for family in families:
        elements = nftables.read_elements(sock, family, table, SET)
        found += elements
        if len(elements) >= BOUND:
            full.flush_set(family, table, SET)
    if not full.is_empty:
        full.commit(sock)
    return last(found)


def last(elements: Iterable[Element]) -> Talker | None:
    """Who spoke last, of the entries of both families. Entries that cannot be are left out."""
    known = [
        (e.expires_milliseconds, e.key)
        for e in elements
        if len(e.key) in (8, 20) and e.expires_milliseconds is not None
    ]
    if not known:
        return None
    left, key = max(known)
    return Talker(
        address=socket.inet_ntop(socket.AF_INET if len(key) == 8 else socket.AF_INET6, key[:-4]),
        port=int.from_bytes(key[-4:-2], "big"),
        seconds_ago=max(0.0, SECONDS - left / 1000),
        sources=len({key[:-4] for _, key in known}),
    )
