"""An image whose memory is not all there is told by CRIU's own count."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from architect.core.errors import NodeError
from architect.shim.keeper import pages
from architect.shim.packets import protobuf

SERVICE = 0x55105940


def put(image: Path, *, written: int, shared: int, files: list[int]) -> None:
    """Write an image of which CRIU counted that many pages, with files of that many bytes."""
    counts = protobuf.message([(1 << 3, 100), (7 << 3, written), (14 << 3, shared)])
    entry = protobuf.message([(1 << 3 | protobuf.BYTES, counts)])
    (image / "stats-dump").write_bytes(struct.pack("=III", SERVICE, 1, len(entry)) + entry)
    for number, size in enumerate(files, start=1):
        (image / f"pages-{number}.img").write_bytes(bytes(size))


@pytest.mark.parametrize("files", [[3 * 4096], [4096, 2 * 4096], [4 * 4096]])
def test_an_image_with_all_its_pages_is_whole(tmp_path: Path, files: list[int]) -> None:
    put(tmp_path, written=2, shared=1, files=files)
    pages.check(tmp_path)


@pytest.mark.parametrize("files", [[3 * 4096 - 1], [4096, 4096], []])
def test_an_image_without_some_of_its_pages_is_cut(tmp_path: Path, files: list[int]) -> None:
    put(tmp_path, written=2, shared=1, files=files)
    with pytest.raises(NodeError) as raised:
        pages.check(tmp_path)
    assert raised.value.reason == "ImageCut"


@pytest.mark.parametrize("content", [b"", b"nothing of CRIU's", b"\x40\x59\x10\x55" + bytes(8)])
def test_an_image_without_a_count_is_believed(tmp_path: Path, content: bytes) -> None:
    pages.check(tmp_path)
    (tmp_path / "stats-dump").write_bytes(content)
    pages.check(tmp_path)
