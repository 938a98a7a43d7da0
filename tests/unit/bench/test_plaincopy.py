"""The plain copy beside ours."""

from __future__ import annotations

from pathlib import Path

from bench.plaincopy import BLOCK_BYTES, PlainCopy


def test_as_many_bytes_as_asked_for_are_copied_and_nothing_stays(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    target.mkdir()
    offers, fetches = PlainCopy(source), PlainCopy(target)
    size = 2 * BLOCK_BYTES + 17
    port = offers.offer(size)["port"]
    assert offers.offer(10)["port"] == port
    assert fetches.fetch("127.0.0.1", port, size)["seconds"] > 0
    assert fetches.fetch("127.0.0.1", port, 10)["seconds"] > 0
    assert (source / "copy-source").stat().st_size >= size
    offers.close()
    fetches.close()
    assert [*source.iterdir(), *target.iterdir()] == []
