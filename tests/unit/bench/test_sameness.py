"""What two dumps have in common: the images' format, and the ways to cut."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from architect.checkpoint.envelope import SHARD_BYTES
from architect.daemon.checkpoint import contents
from architect.daemon.vault import stream
from architect.daemon.vault.stream import Stream
from bench import sameness
from bench.errors import BenchError
from bench.sameness import PAGE_BYTES, Part, Place, Run
from support import checkpointdirs

PRESENT, LAZY = 4, 2


def number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(**fields: int) -> bytes:
    numbers = {"pages_id": 1, "vaddr": 1, "old": 2, "in_parent": 3, "flags": 4, "count": 5}
    raw = b"".join(number(numbers[name] << 3) + number(value) for name, value in fields.items())
    return struct.pack("<I", len(raw)) + raw


def pagemap(*entries: bytes, pages_id: int = 1) -> bytes:
    return struct.pack("<II", 0x54564319, 0x56084025) + b"".join(
        [message(pages_id=pages_id), *entries]
    )


def run(first: int, count: int, **more: int) -> bytes:
    return message(**{"vaddr": first * PAGE_BYTES, "count": count, "flags": PRESENT, **more})


def text(value: int) -> bytes:
    return struct.pack("<Q", value) * (PAGE_BYTES // 8)


def row(*values: int, first: int = 0) -> dict[Place, bytes]:
    return {("a", number): struct.pack("<Q", value) for number, value in enumerate(values, first)}


def test_pages_are_found_by_address_and_process(tmp_path: Path) -> None:
    (tmp_path / "pagemap-7.img").write_bytes(pagemap(run(16, 1), run(1 << 35, 2), pages_id=2))
    (tmp_path / "pages-2.img").write_bytes(text(1) + text(2) + text(1))
    (tmp_path / "pagemap-8.img").write_bytes(pagemap(run(16, 1), pages_id=1))
    (tmp_path / "pages-1.img").write_bytes(text(2))
    found = sameness.pages(tmp_path)
    assert [*found] == [
        ("pagemap-7", 16),
        ("pagemap-7", 1 << 35),
        ("pagemap-7", (1 << 35) + 1),
        ("pagemap-8", 16),
    ]
    assert found["pagemap-7", 16] == found["pagemap-7", (1 << 35) + 1]
    assert found["pagemap-7", 16] != found["pagemap-8", 16]


def test_what_is_not_in_the_file_is_not_counted() -> None:
    raw = pagemap(
        run(1, 2), run(9, 5, flags=LAZY), message(vaddr=0, old=3, in_parent=1), pages_id=300
    )
    assert sameness.pagemap(raw) == (300, [Run(first=1, count=2)])


def test_earlier_versions_of_criu_have_another_count() -> None:
    raw = pagemap(message(vaddr=PAGE_BYTES, old=7))
    assert sameness.pagemap(raw) == (1, [Run(first=1, count=7)])


@pytest.mark.parametrize("raw", [b"", bytes(16), pagemap()[:-1], pagemap() + b"\x01\0\0\0\x0a"])
def test_what_is_no_pagemap_is_refused(raw: bytes) -> None:
    with pytest.raises(BenchError):
        sameness.pagemap(raw)


def test_a_file_of_another_length_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pagemap-1.img").write_bytes(pagemap(run(1, 2)))
    (tmp_path / "pages-1.img").write_bytes(text(1))
    with pytest.raises(BenchError, match="8192"):
        sameness.pages(tmp_path)


def test_a_share_is_one_of_what_is_there_now() -> None:
    old = {1: Part(b"a", 3), 2: Part(b"b", 1), 3: Part(b"c", 100)}
    new = {1: Part(b"a", 3), 2: Part(b"x", 1), 4: Part(b"b", 4)}
    assert sameness.share(old, new) == 3 / 8


def test_one_page_more_moves_all_behind_it_but_no_address() -> None:
    old = row(*range(64), first=8)
    new = {**row(99, first=7), **old}
    as_row = [
        {("", at): Part(digest, 1) for at, digest in enumerate(pages.values())}
        for pages in (old, new)
    ]
    assert sameness.share(*as_row) == 0
    by_address = [sameness.by_address(pages, window_pages=8) for pages in (old, new)]
    assert sameness.share(*by_address) == 64 / 65
    assert sameness.share(*map(sameness.by_page, (old, new))) == 64 / 65


def test_one_written_page_costs_its_whole_part() -> None:
    old, new = row(*range(64)), {**row(*range(64)), ("a", 20): b"written!"}
    cut = [sameness.by_address(pages, window_pages=8) for pages in (old, new)]
    assert sameness.share(*cut) == 56 / 64


def test_a_page_that_is_new_to_an_address_changes_its_part() -> None:
    old = row(1, 2, 3)
    new = {("a", number + 1): digest for (_, number), digest in old.items()}
    cut = [sameness.by_address(pages, window_pages=8) for pages in (old, new)]
    assert sameness.share(*cut) == 0


def test_parts_by_content_are_found_wherever_they_are() -> None:
    values = [value * 0x9E3779B97F4A7C15 % 2**64 for value in range(4000)]
    old, new = row(*values), row(7, 8, 9, *values)
    cut = [sameness.by_content(pages, mean_pages=16) for pages in (old, new)]
    assert sum(part.length for part in cut[0].values()) == len(values)
    assert max(part.length for part in cut[0].values()) <= 64
    assert 0.95 < sameness.share(*cut) < 1


def test_parts_of_one_name_are_put_together() -> None:
    parts = {(name, at): Part(bytes([at]), 10) for name in "ab" for at in range(3)}
    found = sameness.grouped(parts, number=2)
    assert {key: part.length for key, part in found.items()} == {
        ("a", 0): 20,
        ("a", 1): 10,
        ("b", 0): 20,
        ("b", 1): 10,
    }
    assert found["a", 0].digest == found["b", 0].digest != found["a", 1].digest


def test_four_bytes_more_in_a_small_file_leave_no_shard_of_an_upload(tmp_path: Path) -> None:
    """What ``docs/performance.md`` says of shards as they are, in the vault's own words."""
    memory = b"".join(text(number) for number in range(3 * SHARD_BYTES // PAGE_BYTES))
    cuts = []
    for size in (1233, 1237):
        directory = tmp_path / str(size)
        files = {"app/image/files.img": bytes(size), "app/image/pages-1.img": memory}
        pieces = Stream(checkpointdirs.fill(directory, files=files))
        assert contents.read(directory).total_bytes == pieces.length
        cuts.append(
            {
                at: Part(bytes(stream.read(directory, pieces, start=at, length=SHARD_BYTES)), 1)
                for at in range(0, 3 * SHARD_BYTES, SHARD_BYTES)
            }
        )
    assert sameness.share(*cuts) == 0
    assert sameness.share(cuts[0], cuts[0]) == 1
