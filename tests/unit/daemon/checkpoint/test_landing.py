"""A checkpoint that arrives is there whole or not at all."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from architect.checkpoint import manifest
from architect.checkpoint.manifest import Manifest, Piece
from architect.core.errors import NodeError, Rejected
from architect.daemon.checkpoint import contents, landing
from architect.daemon.checkpoint.landing import Landing
from support.checkpointdirs import about, fill


@pytest.fixture
def source(tmp_path: Path) -> Manifest:
    return fill(tmp_path / "source")


def copy_all(arrival: Landing, made: Manifest, source: Path) -> None:
    for piece in made.pieces:
        with arrival.open(piece) as part:
            part.write((source / piece.name).read_bytes(), 0)


@pytest.mark.parametrize("is_durable", [True, False])
def test_it_appears_when_it_is_committed(
    tmp_path: Path, source: Manifest, is_durable: bool
) -> None:
    target = tmp_path / "store/web-1234"
    with Landing(target) as arrival:
        arrival.prepare(source)
        made = target.with_name("web-1234.partial")
        for piece in source.pieces:
            found = (made / piece.name).stat()
            assert found.st_size == piece.size
            assert found.st_blocks * 512 >= piece.size, "the disk's room is taken"
        copy_all(arrival, source, tmp_path / "source")
        assert not target.exists()
        arrival.commit(source, is_durable=is_durable)
    contents.verify(target, source)
    assert contents.read(target) == source
    assert [p.name for p in target.parent.iterdir()] == ["web-1234"]
    assert target.stat().st_mode & 0o777 == 0o700
    assert (target / "app/image").stat().st_mode & 0o777 == 0o700
    assert (target / "app/layer.tar").stat().st_mode & 0o777 == 0o600


def test_what_is_not_committed_leaves_nothing(tmp_path: Path, source: Manifest) -> None:
    target = tmp_path / "store/web-1234"
    with pytest.raises(RuntimeError), Landing(target) as arrival:
        arrival.prepare(source)
        raise RuntimeError
    assert list(target.parent.iterdir()) == []


def test_what_a_daemon_left_that_ended_is_overwritten(tmp_path: Path, source: Manifest) -> None:
    target = tmp_path / "web-1234"
    left = tmp_path / "web-1234.partial"
    (left / "app/other").mkdir(parents=True)
    (left / "app/layer.tar").symlink_to("/etc/passwd")
    with Landing(target) as arrival:
        arrival.prepare(source)
        copy_all(arrival, source, tmp_path / "source")
        arrival.commit(source, is_durable=False)
    contents.verify(target, source)


def test_one_that_is_there_is_not_touched(tmp_path: Path) -> None:
    target = tmp_path / "web-1234"
    target.mkdir()
    with pytest.raises(Rejected) as caught, Landing(target):
        pass
    assert caught.value.reason == "Exists"


def test_two_arrivals_at_one_place_are_told_apart(tmp_path: Path, source: Manifest) -> None:
    target = tmp_path / "web-1234"
    with Landing(target) as first:
        first.prepare(source)
        with pytest.raises(Rejected) as caught, Landing(target):
            pass
        assert caught.value.reason == "AlreadyArriving"
        copy_all(first, source, tmp_path / "source")
        first.commit(source, is_durable=False)
    contents.verify(target, source)


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("x")
    (tmp_path / "web-1234.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NodeError), Landing(tmp_path / "web-1234"):
        pass
    assert (tmp_path / "elsewhere/file").read_text() == "x"


def test_no_room_is_named_before_a_byte_is_written(tmp_path: Path) -> None:
    size = manifest.MAX_PIECE_BYTES
    hashes = ("c" * 64,) * manifest.segments_of(size)
    huge = manifest.make(
        about(),
        [
            Piece(name="app/image/x", size=size, mode=0o600, hashes=hashes),
            Piece(name="app/layer.tar", size=0, mode=0o600, hashes=()),
        ],
    )
    with pytest.raises(NodeError) as caught, Landing(tmp_path / "c") as arrival:
        arrival.prepare(huge)
    assert caught.value.reason == "DiskFull"
    assert list(tmp_path.iterdir()) == []


def test_the_floor_is_not_for_checkpoints(tmp_path: Path, source: Manifest) -> None:
    with pytest.raises(NodeError, match="not for checkpoints"), Landing(tmp_path / "c") as arrival:
        arrival.prepare(source, floor_bytes=1 << 60)


def test_a_sweep_takes_what_is_left_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "old.partial/app").mkdir(parents=True)
    (tmp_path / "whole").mkdir()
    (tmp_path / "file.partial").write_text("x")
    with Landing(tmp_path / "new"):
        assert landing.sweep(tmp_path) == [tmp_path / "old.partial"]
        assert (tmp_path / "new.partial").is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.partial", "whole"]
    assert landing.sweep(tmp_path / "not-there") == []


def test_what_is_kept_is_gone_on_with(tmp_path: Path, source: Manifest) -> None:
    target = tmp_path / "store/web-1234"
    first, *others = source.pieces
    with pytest.raises(RuntimeError), Landing(target) as arrival:
        arrival.prepare(source)
        with arrival.open(first) as part:
            part.write((tmp_path / "source" / first.name).read_bytes(), 0)
        arrival.notes.write_text("the first")
        arrival.keep()
        raise RuntimeError
    assert not target.exists()
    with Landing(target) as arrival:
        assert arrival.notes.read_text() == "the first"
        arrival.go_on()
        for piece in others:
            with arrival.open(piece) as part:
                part.write((tmp_path / "source" / piece.name).read_bytes(), 0)
        arrival.commit(source, is_durable=False)
    contents.verify(target, source)


def test_who_comes_to_nothing_leaves_what_another_has_kept(
    tmp_path: Path, source: Manifest
) -> None:
    target = tmp_path / "web-1234"
    with Landing(target) as arrival:
        arrival.prepare(source)
        arrival.notes.write_text("all")
        arrival.keep()
    with pytest.raises(RuntimeError), Landing(target):
        raise RuntimeError
    with Landing(target) as arrival:
        assert arrival.notes.read_text() == "all"
        arrival.prepare(source)
        assert not arrival.notes.exists(), "it begins anew"


def test_a_sweep_leaves_what_somebody_goes_on_with(tmp_path: Path) -> None:
    for name in ("wanted", "unwanted", "empty"):
        (tmp_path / f"{name}.partial").mkdir()
        if name != "empty":
            (tmp_path / f"{name}.partial" / landing.NOTES).touch()
    removed = landing.sweep(tmp_path, is_wanted=lambda name: name in ("wanted", "empty"))
    assert [path.name for path in removed] == ["empty.partial", "unwanted.partial"]
    assert [path.name for path in tmp_path.iterdir()] == ["wanted.partial"]


def test_a_lock_on_what_was_moved_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between open and flock, the other arrival may have come to its end."""
    partial = tmp_path / "c.partial"
    partial.mkdir()
    real = fcntl.flock

    def moved(fd: int, how: int) -> None:
        os.rename(partial, tmp_path / "c")
        partial.mkdir()
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", moved)
    assert landing._lock(partial) == -1
