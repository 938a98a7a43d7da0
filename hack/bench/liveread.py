"""The memory of processes that go on meanwhile, page by page.

What is read so is of no single moment. It need not be where it is only compared with a later dump:
a page that has changed since is not taken from here, and one that has not is the same one.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from bench.sameness import DIGEST_BYTES, PAGE_BYTES, Place

_ENTRY: Final = struct.Struct("=Q")
_PRESENT: Final = 1 << 63
_OF_A_FILE: Final = 1 << 61
"""``pagemap``: a page of a file, or of memory that is shared."""
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r..p .*", re.ASCII)
_BATCH_PAGES: Final = 1024


def pages(pids: Iterable[int]) -> dict[Place, bytes]:
    """Return the private pages of *pids*, under the names that a dump has for them. Raises OSError.

    What a process maps, or gives back, meanwhile may be missing.
    """
    found: dict[Place, bytes] = {}
    for pid in pids:
        space = f"pagemap-{_inner_pid(Path(f'/proc/{pid}/status').read_text())}"
        with (
            open(f"/proc/{pid}/pagemap", "rb") as entries,
            open(f"/proc/{pid}/mem", "rb") as memory,
        ):
            for first, count in _ranges(Path(f"/proc/{pid}/maps").read_text()):
                present = _private(entries.fileno(), first, count)
                for number, text in _read(memory.fileno(), present):
                    digest = hashlib.blake2b(text, digest_size=DIGEST_BYTES).digest()
                    found[space, number] = digest
    return found


def _inner_pid(status: str) -> int:
    """Return the pid in the innermost namespace."""
    (line,) = (line for line in status.splitlines() if line.startswith("NSpid:"))
    return int(line.split()[-1])


def _ranges(maps: str) -> Iterator[tuple[int, int]]:
    """Yield private mappings that can be read: the first page, and how many."""
    for line in maps.splitlines():
        if match := _MAPPING.fullmatch(line):
            start, end = (int(text, 16) // PAGE_BYTES for text in match.groups())
            for first in range(start, end, _BATCH_PAGES):
                yield first, min(_BATCH_PAGES, end - first)


def _private(fd: int, first: int, count: int) -> list[int]:
    raw = os.pread(fd, count * _ENTRY.size, first * _ENTRY.size)
    return [
        first + at
        for at, (entry,) in enumerate(_ENTRY.iter_unpack(raw))
        if entry & _PRESENT and not entry & _OF_A_FILE
    ]


def _read(fd: int, numbers: list[int]) -> Iterator[tuple[int, bytes]]:
    """Yield each page that can be read, those that follow one another in one call."""
    at = 0
    while at < len(numbers):
        end = at + 1
        while end < len(numbers) and numbers[end] == numbers[end - 1] + 1:
            end += 1
        try:
            text = os.pread(fd, (end - at) * PAGE_BYTES, numbers[at] * PAGE_BYTES)
        except OSError:  # unmapped meanwhile, or the kernel's own
            text = b""
        for offset in range(0, len(text) - PAGE_BYTES + 1, PAGE_BYTES):
            yield numbers[at] + offset // PAGE_BYTES, text[offset : offset + PAGE_BYTES]
        at = end
