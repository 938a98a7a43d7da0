"""How many objects are sealed and sent at once while the node's end is announced.

Each takes memory, a share of the processor and of the link. So there are as many as

- keep all cores sealing while others wait for the store's answers: pods have no use for them soon,
- fill the link twice, so that one that is faster than was known shows it (and there may be more
  then), while one that is slow is not cut into shares in which every object takes long,
- have room in a quarter of the memory that the daemon may take,

whichever is least, and never fewer than at any other time.
"""

from __future__ import annotations

import math
from typing import Final

from architect.daemon.spot.inputs import Bounds, Rates
from architect.daemon.spot.pipeline import OBJECT_BYTES

STREAM_BYTES: Final = 26 * 1024**2
"""Of memory for each object: as it is (8 MiB), compressed or encrypted (8 MiB), and in the client.
Measured: a process that does nothing else grew by 77 MB with three, 151 with six, 269 with twelve,
489 with 24, 775 with 39 (random bytes, which nothing makes smaller)."""

MEMORY_PART: Final = 4
"""One part in so many of the daemon's limit; the rest is page cache of what it writes and reads."""

MOST: Final = 64
"""Threads of Python: no more of them were tried than 39."""


def objects(rates: Rates, *, cores: int, memory_bytes: int) -> int:
    """Return how many at once; *memory_bytes* is the daemon's limit, 0: it has none."""
    least = Bounds().objects
    sealed = OBJECT_BYTES * (
        _per(rates.seal_bytes_per_second_per_core) + _per(rates.hash_bytes_per_second_per_core)
    )
    sent = OBJECT_BYTES * _per(rates.upload_bytes_per_second)
    answer = max(0.0, rates.upload_object_seconds)
    wanted = [
        _ratio(answer + sealed, sealed) * max(1, cores),
        2 * (1 + _ratio(answer + sealed, sent)),
        MOST,
    ]
    if memory_bytes > 0:
        wanted.append(memory_bytes / MEMORY_PART / STREAM_BYTES)
    return max(least, math.floor(min(wanted)))


def _per(rate: float) -> float:
    return 1 / rate if rate > 0 else math.inf


def _ratio(seconds: float, of: float) -> float:
    """Return how often *of* is in *seconds*; what has no speed needs no company."""
    if not of < math.inf:
        return 0.0
    return seconds / of if of > 0 else math.inf
