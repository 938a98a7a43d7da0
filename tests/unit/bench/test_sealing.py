"""What a core hashes and seals in a second, as it is told."""

from __future__ import annotations

from architect.checkpoint.envelope import SHARD_BYTES
from bench import sealing


def test_a_shard_may_take_less_than_a_millisecond() -> None:
    taken = [SHARD_BYTES / rate for rate in (9e9, 8e9, 7e9, 6e9, 5.5e9, 5e9, 4.5e9, 4e9, 3e9, 1e9)]
    assert sealing.said(taken) == "5500 MB/s, 3000 of nine in ten"
