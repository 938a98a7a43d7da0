"""Single files in and out of the page cache. Needs a real disk: tmpfs is nothing but cache."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import pagecache

PAGES = 64


@pytest.fixture
def file() -> Iterator[Path]:
    # Beside this file, since the directory for temporary files is often a tmpfs.
    with tempfile.NamedTemporaryFile(dir=Path(__file__).parent) as made:
        made.write(os.urandom(PAGES * mmap.PAGESIZE - 1))
        made.flush()
        yield Path(made.name)


def test_what_was_just_written_is_cached_until_it_is_dropped(file: Path) -> None:
    pagecache.settle([file])
    assert pagecache.cached_bytes(file) == PAGES * mmap.PAGESIZE
    pagecache.drop([file])
    assert pagecache.cached_bytes(file) == 0
    file.read_bytes()
    assert pagecache.cached_bytes(file) == PAGES * mmap.PAGESIZE


def test_an_empty_file_has_nothing_cached(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert pagecache.cached_bytes(tmp_path / "empty") == 0


def test_files_are_found_at_every_depth_without_links_and_directories(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "pages-1.img").touch()
    (tmp_path / "link").symlink_to("a/b/pages-1.img")
    assert pagecache.files_below(tmp_path) == [tmp_path / "a" / "b" / "pages-1.img"]
    assert pagecache.files_below(tmp_path / "missing") == []
