"""An archive of files that came with a checkpoint, read to its end; nothing is written.

Sums of tar headers are made right before it is read: else no changed header were looked at.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Iterator
from typing import Final

from architect.shim.layers import archive
from architect.shim.layers.archive import BLOCK_BYTES, ArchiveError, Kind, Limits
from architect.shim.layers.reader import Reader
from fuzz import mutations
from support.archives import archive as made
from support.archives import directory, member, opened

MUTATE = mutations.raw

LIMITS: Final = Limits(entries=64, bytes=1 << 20, file_bytes=1 << 19, depth=8)


def seeds() -> Iterator[bytes]:
    members = (
        directory("a"),
        (member("a/file", mode=0o640, mtime=1.5), b"data"),
        member("a/hard", tarfile.LNKTYPE, linkname="a/file"),
        member("a/link", tarfile.SYMTYPE, linkname="../../etc/passwd"),
        member("null", tarfile.CHRTYPE, devmajor=1, devminor=3),
        (member("z" * 150), b"x" * 700),
    )
    yield made(*members)
    yield made(*members[:2], kind="layer")
    yield made()
    yield made(directory("b"), directory("a"))
    yield made(directory("a"), directory("a"))
    sparse = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "sparse",
        "GNU.sparse.realsize": "9000",
    }
    yield made((member("sparse", pax_headers=sparse), b"1\n4096\n4\n".ljust(512, b"\0") + b"data"))


def run(data: bytes) -> None:
    data = _summed(data)
    for kind in Kind:
        with opened(data) as source, tempfile.TemporaryFile() as out:
            reader = Reader(source, kind=kind, limits=LIMITS)
            try:
                names = []
                for entry in reader:
                    names.append(entry.name)
                    if entry.type == archive.REGULAR:
                        out.truncate(0)
                        reader.copy(entry, out.fileno())
                        assert os.fstat(out.fileno()).st_size == entry.size <= LIMITS.file_bytes
                    _check(entry)
            except ArchiveError as error:
                assert error.reason
                continue
            assert names == sorted(set(names))
            assert reader.summary.entries <= LIMITS.entries
            assert reader.summary.bytes <= LIMITS.bytes


def _check(entry: archive.Entry) -> None:
    for name in (entry.name, entry.link or ()):
        assert len(name) <= LIMITS.depth
        for part in name:
            assert part not in (b"", b".", b"..")
            assert b"/" not in part
            assert b"\0" not in part
    assert entry.mode <= 0o7777
    assert entry.size >= 0


def _summed(data: bytes) -> bytes:
    found = bytearray(data)
    for at in range(0, len(found) - BLOCK_BYTES + 1, BLOCK_BYTES):
        block = found[at : at + BLOCK_BYTES]
        if block[257:263] == b"ustar\0":
            total = archive.checksum(bytes(block))
            found[at + 148 : at + 156] = b"%06o\0 " % total
    return bytes(found)
