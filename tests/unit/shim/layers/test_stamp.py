"""A volume's stamp is the same as long as nothing is done there, and another one whatever is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from architect.core.errors import Rejected
from architect.shim.layers import stamp


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    made = tmp_path / "volume"
    (made / "base/deep").mkdir(parents=True)
    (made / "base/deep/file").write_bytes(b"1234")
    (made / "base/name").symlink_to("/etc/passwd")
    (made / "away").symlink_to("/etc")
    os.mkfifo(made / "fifo")
    last, clock = made / os.fsdecode(b"\xff\xfe"), tmp_path / "clock"
    last.touch()
    clock.touch()
    # What happens from now on has another time: the kernel's clock of files has moved.
    while clock.stat().st_ctime_ns <= last.stat().st_ctime_ns:
        time.sleep(0.001)
        clock.touch()
    return made


def test_it_is_the_same_as_often_as_it_is_asked(volume: Path) -> None:
    first = stamp.of(volume)
    assert first.entries == 8  # the directory itself, and neither of the links' targets
    assert stamp.of(volume) == first
    os.listdir(volume)
    (volume / "base/deep/file").read_bytes()
    assert stamp.of(volume) == first


def same_length_and_time(volume: Path) -> None:
    file = volume / "base/deep/file"
    before = file.stat()
    file.write_bytes(b"4321")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def made_and_removed(volume: Path) -> None:
    (volume / "base/new").touch()
    (volume / "base/new").unlink()


def swapped(volume: Path) -> None:
    (volume / "base/deep/file").rename(volume / "base/deep/other")
    (volume / "base/deep/other").rename(volume / "base/deep/file")


@pytest.mark.parametrize(
    "change",
    [
        lambda v: (v / "base/deep/file").write_bytes(b"12345"),
        same_length_and_time,
        made_and_removed,
        swapped,
        lambda v: (v / "base/deep/file").chmod(0o600),
        lambda v: os.chown(v / "fifo", 0, 0),
        lambda v: os.setxattr(v / "base", "trusted.x", b"y"),
        lambda v: os.link(v / "base/deep/file", v / "base/hard"),
        lambda v: (v / "base/name").unlink(),
        lambda v: v.chmod(0o700),
    ],
    ids=[
        "longer",
        "in-place",
        "traceless",
        "renamed",
        "mode",
        "owner",
        "xattr",
        "link",
        "gone",
        "root",
    ],
)
def test_whatever_is_done_changes_it(volume: Path, change: Callable[[Path], object]) -> None:
    before = stamp.of(volume)
    change(volume)
    assert stamp.of(volume).sha256 != before.sha256


def test_too_many_files_are_refused_by_name(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamp, "MAX_ENTRIES", 7)
    with pytest.raises(Rejected, match="more than 7 files") as caught:
        stamp.of(volume)
    assert caught.value.reason == "VolumeTooLarge"


def test_a_link_in_the_volumes_place_is_not_followed(volume: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(volume)
    with pytest.raises(OSError, match="link"):
        stamp.of(tmp_path / "link")
    with pytest.raises(FileNotFoundError):
        stamp.of(tmp_path / "nothing")
