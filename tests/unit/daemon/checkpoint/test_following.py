"""Hashes taken while files grow are those that are taken afterwards."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from architect.checkpoint import manifest
from architect.daemon.checkpoint import contents, following
from architect.daemon.checkpoint.following import FileId, Following
from support.checkpointdirs import about
from support.runtime import eventually

SEGMENT = 4096
"""In place of a manifest's, so that a test has many."""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Where a checkpoint in *tmp_path* has its container's image."""
    made = tmp_path / "app" / "image"
    made.mkdir(parents=True)
    (tmp_path / "app" / "layer.tar").write_bytes(b"layer")
    (made / "core-1.img").write_bytes(b"not memory")
    return made


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (following, contents, manifest):
        monkeypatch.setattr(module, "SEGMENT_BYTES", SEGMENT)
    monkeypatch.setattr(following, "READ_BYTES", 1000)


def grow(path: Path, size: int, *, seed: int) -> None:
    """Append *size* bytes in pieces of all lengths."""
    source = random.Random(seed)
    with open(path, "ab", buffering=0) as file:
        while size:
            size -= file.write(source.randbytes(min(size, source.randint(1, 3 * SEGMENT))))


def identity(path: Path) -> FileId:
    return FileId.of(os.stat(path))


@pytest.mark.parametrize("size", [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 40 * SEGMENT + 7])
def test_what_grows_is_hashed_as_it_is_at_the_end(tmp_path: Path, image: Path, size: int) -> None:
    with Following([tmp_path / "later", image]) as ahead:
        for number in (1, 2):
            grow(image / f"pages-{number}.img", size, seed=number)
        eventually(
            lambda: (
                [file._size for file in list(ahead._files.values())] == [size, size] or not size
            ),
            what="all is read",
        )
        known = ahead.hashed()
        made = contents.build(tmp_path, about(), known=known)
    assert made == contents.build(tmp_path, about())
    found = {identity(image / f"pages-{number}.img") for number in (1, 2)}
    assert set(known) == found or not size
    assert {read.size for read in known.values()} <= {size}


def test_what_was_not_read_yet_is_hashed_at_the_end(tmp_path: Path, image: Path) -> None:
    path = image / "pages-1.img"
    for step in range(50):
        path.unlink(missing_ok=True)
        with Following([image]) as ahead:
            grow(path, step * 1000, seed=step)
            made = contents.build(tmp_path, about(), known=ahead.hashed())
        assert made == contents.build(tmp_path, about())


def test_a_file_that_takes_the_place_of_another_is_hashed_anew(tmp_path: Path, image: Path) -> None:
    path = image / "pages-1.img"
    with Following([image]) as ahead:
        for seed in (1, 2):
            path.unlink(missing_ok=True)
            grow(path, 3 * SEGMENT, seed=seed)
            eventually(
                lambda: (file := ahead._files.get(path)) and file.id == identity(path),
                what="it is followed",
            )
        made = contents.build(tmp_path, about(), known=ahead.hashed())
    assert made == contents.build(tmp_path, about())


def test_a_file_that_became_shorter_is_hashed_anew(tmp_path: Path, image: Path) -> None:
    path = image / "pages-1.img"
    grow(path, 3 * SEGMENT, seed=1)
    with Following([image]) as ahead:
        eventually(
            lambda: (file := ahead._files.get(path)) and file._size == 3 * SEGMENT,
            what="all is read",
        )
        known = ahead.hashed()
        os.truncate(path, 2 * SEGMENT + 5)
        made = contents.build(tmp_path, about(), known=known)
    assert made == contents.build(tmp_path, about())


def test_what_is_known_is_not_read_again(tmp_path: Path, image: Path) -> None:
    path = image / "pages-1.img"
    grow(path, 3 * SEGMENT + 1, seed=1)
    with Following([image]) as ahead:
        eventually(
            lambda: (file := ahead._files.get(path)) and file._size == 3 * SEGMENT + 1,
            what="all is read",
        )
        known = ahead.hashed()
    right = contents.build(tmp_path, about())
    path.write_bytes(bytes(3 * SEGMENT + 1))  # the same file: nobody looks
    assert contents.build(tmp_path, about(), known=known) == right
    assert contents.build(tmp_path, about()) != right
