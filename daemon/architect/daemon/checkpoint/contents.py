"""The files of a checkpoint on disk: hashed into a manifest, and compared with one.

Segments are hashed in parallel: the hash lets other threads run meanwhile.
"""

from __future__ import annotations

import concurrent.futures
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from architect.checkpoint import digests
from architect.checkpoint import manifest as manifests
from architect.checkpoint.manifest import SEGMENT_BYTES, About, Manifest, Piece
from architect.core import files
from architect.core.errors import FormatError
from architect.daemon.checkpoint.following import FileId, Hashed

READ_BYTES: Final = 1024**2
"""Large enough that the call costs nothing beside the hash, small enough for any cache."""

THREADS: Final = min(4, os.cpu_count() or 1)
"""The node's cores belong to its pods; four hash 4 to 8 GB/s."""


@dataclass(frozen=True, kw_only=True)
class _File:
    name: str
    size: int
    mode: int
    id: FileId


def build(
    directory: Path,
    about: About,
    *,
    known: Mapping[FileId, Hashed] = MappingProxyType({}),
    threads: int = THREADS,
) -> Manifest:
    """Return the manifest of what lies in *directory*, which must not change meanwhile.

    What is *known* of a file is not hashed once more. A ``manifest.json`` that is there is not a
    piece. Raises FormatError for anything but regular files and directories, and for names that no
    manifest may have; OSError.
    """
    found = list(_walk(directory))
    hashes = _hash_all(directory, found, threads, known)
    pieces = [
        Piece(name=f.name, size=f.size, mode=f.mode, hashes=tuple(hashes[f.name])) for f in found
    ]
    return manifests.make(about, pieces)


def write(directory: Path, manifest: Manifest, *, is_durable: bool = True) -> bytes:
    """Put the manifest into *directory*, which makes it a checkpoint; return its bytes.

    Without *is_durable* a power cut within the next half minute may take it, or leave it empty.
    """
    raw = manifests.to_bytes(manifest)
    files.write_atomic(directory / manifests.NAME, raw, durable=is_durable)
    return raw


def read(directory: Path) -> Manifest:
    """Return the manifest in *directory*. Raises FileNotFoundError, FormatError."""
    with open(directory / manifests.NAME, "rb") as file:
        return manifests.from_bytes(file.read(manifests.MAX_BYTES + 1))


def verify(directory: Path, manifest: Manifest, *, threads: int = THREADS) -> None:
    """Return if *directory* holds exactly what *manifest* says.

    Raises FormatError with the first difference, OSError.
    """
    found = {f.name: f for f in _walk(directory)}
    wanted = {p.name: p for p in manifest.pieces}
    if missing := wanted.keys() - found.keys():
        raise FormatError(f"{directory}: {min(missing)} is missing")
    if excess := found.keys() - wanted.keys():
        raise FormatError(f"{directory}: {min(excess)} is not in the manifest")
    for name, piece in wanted.items():
        if found[name].size != piece.size:
            raise FormatError(
                f"{directory}: {name} has {found[name].size} bytes instead of {piece.size}"
            )
        if found[name].mode != piece.mode:
            raise FormatError(
                f"{directory}: {name} has mode {found[name].mode:o} instead of {piece.mode:o}"
            )
    hashes = _hash_all(directory, list(found.values()), threads, {})
    for name, piece in wanted.items():
        for number, (is_, should) in enumerate(zip(hashes[name], piece.hashes, strict=True)):
            if is_ != should:
                raise FormatError(
                    f"{directory}: {name} is damaged within {SEGMENT_BYTES} bytes from "
                    f"{number * SEGMENT_BYTES}"
                )


def _walk(directory: Path) -> Iterator[_File]:
    """Yield every file below *directory* but the manifest, following no link."""
    pending = [""]
    while pending:
        below = pending.pop()
        with os.scandir(directory / below) as entries:
            for entry in entries:
                name = f"{below}/{entry.name}" if below else entry.name
                if name == manifests.NAME:
                    continue
                info = entry.stat(follow_symlinks=False)
                if not manifests.is_piece_name(name):
                    raise FormatError(f"{directory}: {name!r} is not the name of a piece")
                if stat.S_ISDIR(info.st_mode):
                    pending.append(name)
                elif stat.S_ISREG(info.st_mode):
                    # What group and others may is not kept: images are secrets.
                    mode = stat.S_IMODE(info.st_mode) & 0o700 | stat.S_IRUSR
                    yield _File(name=name, size=info.st_size, mode=mode, id=FileId.of(info))
                else:
                    raise FormatError(f"{directory}: {name} is neither a file nor a directory")


def _hash_all(
    directory: Path, found: list[_File], threads: int, known: Mapping[FileId, Hashed]
) -> dict[str, list[str]]:
    hashes = {file.name: _known(file, known.get(file.id)) for file in found}
    jobs = [
        (file, number)
        for file in found
        for number in range(len(hashes[file.name]), manifests.segments_of(file.size))
    ]

    def one(job: tuple[_File, int]) -> str:
        file, number = job
        start = number * SEGMENT_BYTES
        return hash_range(
            directory / file.name, start=start, length=min(SEGMENT_BYTES, file.size - start)
        )

    with concurrent.futures.ThreadPoolExecutor(max(1, threads), "hash") as pool:
        for (file, _), value in zip(jobs, pool.map(one, jobs), strict=True):
            hashes[file.name].append(value)
    return hashes


def _known(file: _File, read: Hashed | None) -> list[str]:
    """Return the hashes of the first segments of *file* that need not be taken again."""
    if read is None or read.size > file.size:
        return []
    if read.size == file.size:
        return list(read.hashes)
    return list(read.hashes[: read.size // SEGMENT_BYTES])


def hash_range(path: Path, *, start: int, length: int) -> str:
    """Return the hash of *length* bytes of a file. Raises FormatError if it ends before."""
    value = digests.hasher()
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        buffer = memoryview(bytearray(min(READ_BYTES, length)))
        while length:
            got = os.preadv(fd, [buffer[: min(length, len(buffer))]], start)
            if got == 0:
                raise FormatError(f"{path} ends at {start} and is shorter than it was")
            value.update(buffer[:got])
            start, length = start + got, length - got
    finally:
        os.close(fd)
    return value.hexdigest()
