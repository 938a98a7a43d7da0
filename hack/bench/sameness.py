"""What two dumps of one process tree have in common, by several ways to cut them.

Pure but for reads.

Memory is a row of pages: CRIU writes those that are present in the order of their addresses, one
behind the other (``pages-*.img``), and beside them which these are (``pagemap-*.img``). So one page
more moves all behind it, and what lay at one place of the row lies at another one.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from bench.errors import BenchError

PAGE_BYTES: Final = 4096
DIGEST_BYTES: Final = 8
"""Of a page: two of a million have the same one by chance once in 10^7 runs."""

_HEAD: Final = struct.Struct("<II")
_MAGIC: Final = (0x54564319, 0x56084025)
"""CRIU's ``IMG_COMMON_MAGIC`` and ``PAGEMAP_MAGIC`` (``criu/include/magic.h``)."""
_LENGTH: Final = struct.Struct("<I")
_PRESENT: Final = 1 << 2
"""``PE_PRESENT``: the pages are in the file."""
_ADDRESS, _OLD_COUNT, _IN_PARENT, _FLAGS, _COUNT = 1, 2, 3, 4, 5
"""Fields of ``pagemap_entry``; the count has got a wider one with CRIU 4.1."""

Place = tuple[str, int]
"""An address space and the number of a page in it."""
Pages = Mapping[Place, bytes]
"""Place to digest, in the order of the row."""

Key = TypeVar("Key", bound=Hashable)


class Part(NamedTuple):
    """What would be sent, or not, as one."""

    digest: bytes
    length: int


Parts = Mapping[Key, Part]
"""By what says whether two of them may be the same one."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Pages that follow one another, in the file as in the address space."""

    first: int
    """The number of the page, which is its address by its size."""
    count: int


def pages(directory: Path) -> dict[Place, bytes]:
    """Return every page of the images in *directory*. Raises BenchError, OSError."""
    found: dict[Place, bytes] = {}
    for path in sorted(directory.glob("pagemap-*.img")):
        pages_id, runs = pagemap(path.read_bytes())
        target = directory / f"pages-{pages_id}.img"
        size = sum(run.count for run in runs) * PAGE_BYTES
        if target.stat().st_size != size:
            raise BenchError(f"{target} has {target.stat().st_size} bytes, {path.name} says {size}")
        with target.open("rb") as file:
            for run in runs:
                for number in range(run.first, run.first + run.count):
                    text = file.read(PAGE_BYTES)
                    found[path.stem, number] = hashlib.blake2b(
                        text, digest_size=DIGEST_BYTES
                    ).digest()
    return found


def pagemap(raw: bytes) -> tuple[int, list[Run]]:
    """Return the number of the file with the pages, and what is in it. Raises BenchError."""
    if len(raw) < _HEAD.size or _HEAD.unpack_from(raw) != _MAGIC:
        raise BenchError("this is no pagemap of CRIU's")
    head, *entries = _messages(raw[_HEAD.size :])
    runs = []
    for entry in entries:
        fields = _fields(entry)
        is_present = fields.get(_FLAGS, 0 if fields.get(_IN_PARENT) else _PRESENT) & _PRESENT
        if is_present:
            count = fields.get(_COUNT) or fields[_OLD_COUNT]
            runs.append(Run(first=fields[_ADDRESS] // PAGE_BYTES, count=count))
    return _fields(head)[1], runs


def _messages(raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size + length
        if at > len(raw):
            raise BenchError("a pagemap of CRIU's ends in the middle of a message")
        yield raw[at - length : at]


def _fields(message: bytes) -> dict[int, int]:
    """Return the fields of a message that has numbers only."""
    found, rest = {}, iter(message)
    for byte in rest:
        if byte & 7:
            raise BenchError(f"field {byte >> 3} of a pagemap of CRIU's is no number")
        found[byte >> 3] = _number(rest)
    return found


def _number(rest: Iterator[int]) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = next(rest)
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
    raise BenchError("a number in a pagemap of CRIU's does not end")


def share(old: Parts[Key], new: Parts[Key]) -> float:
    """Return how much of *new* there is in *old*, under the same key."""
    whole = sum(part.length for part in new.values())
    same = sum(part.length for key, part in new.items() if old.get(key) == part)
    return same / whole


def by_page(found: Pages) -> dict[Place, Part]:
    """Cut at every page, and keep it at its address: no cut leaves more."""
    return {place: Part(digest=digest, length=1) for place, digest in found.items()}


def by_address(found: Pages, *, window_pages: int) -> dict[Place, Part]:
    """Cut at multiples of *window_pages* of the address space, whatever is present there."""
    windows: dict[Place, list[bytes]] = {}
    for (space, number), digest in found.items():
        at = number.to_bytes(8, "little")
        windows.setdefault((space, number // window_pages), []).append(at + digest)
    return {place: _joined(found, length=len(found)) for place, found in windows.items()}


def by_content(found: Pages, *, mean_pages: int) -> dict[bytes, Part]:
    """Cut where content says so, and find parts wherever they are.

    A part ends behind a page whose digest is a multiple of *mean_pages*; not before a quarter of
    that number of pages, and after four times as many at the latest.
    """
    parts: dict[bytes, Part] = {}
    part: list[bytes] = []
    for number, digest in enumerate(found.values(), 1):
        part.append(digest)
        is_end = int.from_bytes(digest, "little") % mean_pages == 0
        is_full = len(part) == 4 * mean_pages or (is_end and 4 * len(part) >= mean_pages)
        if is_full or number == len(found):
            made = _joined(part, length=len(part))
            parts[made.digest] = made
            part = []
    return parts


def grouped(parts: Parts[tuple[str, int]], *, number: int) -> dict[tuple[str, int], Part]:
    """Make of *number* parts that follow one another in a file, or a row, one."""
    groups: dict[tuple[str, int], list[Part]] = {}
    for (name, at), part in sorted(parts.items()):
        groups.setdefault((name, at // number), []).append(part)
    return {
        key: _joined([p.digest for p in found], length=sum(p.length for p in found))
        for key, found in groups.items()
    }


def _joined(digests: Sequence[bytes], *, length: int) -> Part:
    return Part(digest=hashlib.sha256(b"".join(digests)).digest(), length=length)
