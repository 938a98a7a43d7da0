"""Files of a CRIU image that came from another node: what is read in them, and rewritten.

The input is ``files.img``; the streams of its connections are it, too.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from architect.core.errors import FormatError, Rejected
from architect.shim.keeper import ghosts, projected
from architect.shim.layers.places import Mounted
from architect.shim.packets import protobuf
from architect.shim.packets.connections import ImageSockets, read_image
from architect.shim.packets.headers import TCP, UDP
from architect.shim.packets.rebinding import pairs, rebind
from architect.shim.packets.sockdiag import ESTABLISHED, LISTEN
from fuzz import mutations, scratch

MUTATE = mutations.raw

OLD: Final = frozenset({"10.0.0.2", "fd00::2"})
NEW: Final = frozenset({"10.0.9.9", "fd00::9"})
OLD_DATE, NEW_DATE = "..2026_11_30_14_00_00.1", "..2026_11_30_15_00_00.2"
MOUNTS: Final = [Mounted(point="/config", kind="ext4", is_read_only=True)]
MAGICS: Final = struct.pack("=II", 0x54564319, 0x56303138)


def inet(protocol: int, state: int, address: str, *, is_packed: bool) -> bytes:
    """Return a FileEntry with a socket that is bound to *address*."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    raw = socket.inet_pton(family, address)
    words = [word for (word,) in struct.iter_unpack("=I", raw)]
    numbers = {1: 5, 2: 7, 3: family, 4: 1, 5: protocol, 6: state, 7: 80, 8: 40000, 15: 0}
    fields: list[protobuf.Field] = [(n << 3, value) for n, value in numbers.items()]
    for number in (11, 12):
        fields += (
            [(number << 3 | protobuf.BYTES, protobuf.packed(words))]
            if is_packed
            else [(number << 3, word) for word in words]
        )
    entry: list[protobuf.Field] = [(1 << 3, 4), (2 << 3, 5)]
    return protobuf.message([*entry, (4 << 3 | protobuf.BYTES, protobuf.message(fields))])


def named(path: str, *numbers: int) -> bytes:
    """Return a FileEntry in which *path* stands below the fields *numbers*."""
    value = path.encode()
    for number in reversed(numbers):
        value = protobuf.message([(1 << 3, 5), (number << 3 | protobuf.BYTES, value)])
    return value


def image(*entries: bytes) -> bytes:
    """Return an image file of *entries*."""
    return MAGICS + b"".join(struct.pack("=I", len(entry)) + entry for entry in entries)


def seeds() -> Iterator[bytes]:
    yield image(
        inet(TCP, LISTEN, "10.0.0.2", is_packed=False),
        inet(TCP, ESTABLISHED, "10.0.0.2", is_packed=True),
        inet(UDP, ESTABLISHED, "fd00::2", is_packed=True),
    )
    yield image(inet(TCP, LISTEN, "::ffff:10.0.0.2", is_packed=True))
    yield image(inet(TCP, LISTEN, "0.0.0.0", is_packed=False))
    yield image(
        named(f"/config/{OLD_DATE}/run.sh", 3, 6),
        named(f"/config/{OLD_DATE}", 13, 5, 7, 4),
        named("/config/..data", 14, 6, 7, 2, 4),
    )
    stream = {2: 1000, 4: 2000, 8: 7, 12: 5, 16: 64000}
    yield image(protobuf.message((n << 3, value) for n, value in stream.items()))
    yield image()


def run(data: bytes) -> None:
    directory = scratch.directory("images")
    (directory / "files.img").write_bytes(data)
    (directory / "tcp-stream-7.img").write_bytes(data)
    (directory / "tcp-stream-0.img").write_bytes(data)
    _follow(directory)
    (directory / "files.img").write_bytes(data)
    _make_elsewhere(directory)
    (directory / "files.img").write_bytes(data)
    before = _sockets(directory)
    try:
        changed = rebind(directory, pairs(OLD, NEW), old=OLD)
    except (FormatError, Rejected):
        assert (directory / "files.img").read_bytes() == data
        return
    if not changed:
        assert (directory / "files.img").read_bytes() == data
    # No listener of the old pod is left, and everything else is as it was.
    after = _sockets(directory)
    assert (before is None) == (after is None)
    if before is not None and after is not None:
        assert len(before.listeners) == len(after.listeners)
        assert not OLD & {listener.address for listener in after.listeners}
        assert before.connections == after.connections


def _follow(directory: Path) -> None:
    """Have open files follow a volume whose directory has another date."""
    volume = directory / "volume"
    if not volume.exists():
        (volume / NEW_DATE).mkdir(parents=True)
        (volume / "..data").symlink_to(NEW_DATE)
    data, before = (directory / "files.img").read_bytes(), _sockets(directory)
    try:
        changed = projected.rename(directory, {"/config": volume})
    except FormatError:
        changed = 0
    if not changed:
        assert (directory / "files.img").read_bytes() == data
    assert _sockets(directory) == before
    assert not changed or projected.rename(directory, {"/config": volume}) == 0


def _make_elsewhere(directory: Path) -> None:
    """Have removed files made where something can be made."""
    data, before = (directory / "files.img").read_bytes(), _sockets(directory)
    try:
        changed = ghosts.rename(directory, {5: 1, 7: 2}, MOUNTS)
    except FormatError:
        changed = 0
    if not changed:
        assert (directory / "files.img").read_bytes() == data
    assert _sockets(directory) == before
    assert not changed or ghosts.rename(directory, {5: 1, 7: 2}, MOUNTS) == 0


def _sockets(directory: Path) -> ImageSockets | None:
    try:
        return read_image(directory)
    except FormatError:
        return None
