"""Sockets whose packets are not held: no application that has one may be put to sleep unnoticed.

The rules hold TCP and UDP. A raw or packet socket gets copies of what passes by, and what comes for
UDP-Lite or as an answer to a ping would be discarded while the socket sleeps in an image.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from .netns import Netns

#: File of /proc/net → what to call its sockets, and the column of their inode.
_TABLES: Final = {
    "raw": ("a raw socket", 9),
    "raw6": ("a raw socket", 9),
    "icmp": ("a ping socket", 9),
    "icmp6": ("a ping socket", 9),
    "udplite": ("a UDP-Lite socket", 9),
    "udplite6": ("a UDP-Lite socket", 9),
    "packet": ("a packet socket", 8),
}


def find(netns: Netns, inodes: Collection[int]) -> str | None:
    """What kind of such a socket is among `inodes`; None if none is. OSError."""
    for table, (kind, column) in _TABLES.items():
        try:
            text = netns.read(table)
        except FileNotFoundError:
            # A kernel without this protocol.
            continue
        if any(inode in inodes for inode in _inodes(text, column)):
            return kind
    return None


def _inodes(text: str, column: int) -> Iterator[int]:
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > column and fields[column].isdigit():
            yield int(fields[column])
