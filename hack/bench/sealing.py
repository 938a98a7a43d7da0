"""What a core hashes and seals in a second of its own time: ``python -m bench.sealing``.

The planner's defaults for both come from here (``docs/spot.md``). Time is the thread's own, so
others on the machine matter only as far as they take its caches and the other half of its core.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final

from architect.checkpoint import digests, keys
from architect.checkpoint.envelope import SHARD_BYTES
from architect.daemon.heap import Heap
from architect.daemon.vault import shards
from architect.daemon.vault.shards import ShardName
from bench import figures

RUNS: Final = 60
PAGE: Final = 4096


def main() -> None:
    """Print megabytes in a second: the median, and what nine runs of ten reach."""
    Heap().prepare()
    noise = os.urandom(SHARD_BYTES)
    mixed = b"".join(os.urandom(PAGE // 2) + bytes(PAGE // 2) for _ in range(SHARD_BYTES // PAGE))
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, {RUNS} runs")
    _tell(f"hashed ({digests.NAME})", lambda: digests.of(noise))
    _tell("sealed and signed, random bytes", lambda: _seal(noise))
    _tell("sealed and signed, half of it zero", lambda: _seal(mixed))


def _seal(plain: bytes) -> None:
    """Do what an upload does with a shard, but for the request."""
    about = ShardName(id="bench", attempt="0" * 16, number=0)
    sealed = shards.seal_shard(plain, key=secrets.token_bytes(keys.DATA_KEY_BYTES), about=about)
    sealed.to_entry()


def _tell(what: str, work: Callable[[], object]) -> None:
    taken = []
    for _ in range(RUNS):
        started = time.thread_time()
        work()
        taken.append(time.thread_time() - started)
    print(f"{what}: {said(taken)}")


def said(taken: Sequence[float]) -> str:
    """Return what is printed of the seconds that shards took.

    Of seconds as they are: a spread has milliseconds, of which BLAKE3 takes two for a shard.
    """
    half, most = (SHARD_BYTES / figures.percentile(taken, percent) / 1e6 for percent in (50, 90))
    return f"{figures.number(half)} MB/s, {figures.number(most)} of nine in ten"


if __name__ == "__main__":
    main()
