"""Sockets that were bound to the old pod's addresses are bound to the new pod's.

A CRIU image says to which address each socket was bound. Wildcards and loopback are the same in
every pod; a pod's own address is not, and binding to it would fail. So where a socket was bound to
an address of the pod that left, the image is made to say the successor's of the same family.
Connections are none of this: they have ended.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from pathlib import Path

from architect.core.errors import FormatError, Rejected

from . import protobuf
from .connections import (
    FILE_ENTRY_INET,
    INET_PROTOCOL,
    INET_SOURCE,
    INET_STATE,
    address_of,
)
from .headers import TCP
from .sockdiag import CLOSE, LISTEN


def pairs(old: frozenset[str], new: frozenset[str]) -> dict[str, str]:
    """Return which address of a successor takes the place of each of its predecessor's.

    An address that both have stands for itself; one of a family of which the successor has none is
    left out. Of several the first in order is taken: a pod has one of each family.
    """
    found: dict[str, str] = {}
    for address in sorted(old):
        candidates = sorted(a for a in new if _kind(a) == _kind(address))
        if candidates:
            found[address] = address if address in new else candidates[0]
    return found


def _kind(address: str) -> tuple[bool, bool]:
    return ":" in address, address.startswith("fe80:")


def rebind(image: Path, addresses: Mapping[str, str], *, old: frozenset[str]) -> int:
    """Rewrite the sockets of *image* that are bound to *old* addresses; return how many were.

    *addresses* is what :func:`pairs` gives. Raises Rejected with ``NoAddress`` if one is bound to
    an address that has no counterpart, FormatError, OSError.
    """
    path = image / "files.img"

    def change(entry: bytes) -> bytes | None:
        fields = list(protobuf.fields(entry, path))
        is_changed = False
        for at, (key, value) in enumerate(fields):
            if key >> 3 != FILE_ENTRY_INET or not isinstance(value, bytes):
                continue
            moved = _moved(value, addresses, old=old, path=path)
            if moved is not None:
                fields[at] = key, moved
                is_changed = True
        return protobuf.message(fields) if is_changed else None

    return protobuf.rewrite(path, change)


def _moved(
    inet: bytes, addresses: Mapping[str, str], *, old: frozenset[str], path: Path
) -> bytes | None:
    """Return the socket's entry with its new address; None if it is not bound to an old one."""
    fields = list(protobuf.fields(inet, path))
    numbers = {key >> 3: value for key, value in fields}
    if numbers.get(INET_PROTOCOL) == TCP and numbers.get(INET_STATE) not in (CLOSE, LISTEN):
        return None
    words: list[int] = []
    for key, value in fields:
        if key >> 3 == INET_SOURCE:
            words += [value] if isinstance(value, int) else protobuf.unpacked(value, path)
    if not words:
        raise FormatError(f"{path}: a socket has no address")
    bound = address_of(words, path)
    if bound not in old:
        return None
    if bound not in addresses:
        raise Rejected(
            f"a socket is bound to {bound}, and the new pod has no address of its family",
            reason="NoAddress",
            hint="bind to the wildcard address, or give both pods the same address families",
        )
    kept = [field for field in fields if field[0] >> 3 != INET_SOURCE]
    new = _words(addresses[bound], is_mapped=len(words) == 4 and ":" not in bound)
    at = next(i for i, (key, _) in enumerate(fields) if key >> 3 == INET_SOURCE)
    was_packed = fields[at][0] & 7 == protobuf.BYTES
    own: list[protobuf.Field] = (
        [(INET_SOURCE << 3 | protobuf.BYTES, protobuf.packed(new))]
        if was_packed
        else [(INET_SOURCE << 3 | protobuf.VARINT, word) for word in new]
    )
    return protobuf.message([*kept[:at], *own, *kept[at:]])


def _words(address: str, *, is_mapped: bool) -> list[int]:
    family = socket.AF_INET6 if is_mapped or ":" in address else socket.AF_INET
    text = f"::ffff:{address}" if is_mapped else address
    return [word for (word,) in struct.iter_unpack("=I", socket.inet_pton(family, text))]
