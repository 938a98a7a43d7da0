"""State files: old or new, never half."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from architect.core import files
from architect.core.errors import FormatError


def test_a_written_object_is_read_back_and_private(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    files.write_json(path, {"version": 1, "a": [1, "x"]})
    assert files.read_json(path, version=1) == {"version": 1, "a": [1, "x"]}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_private_directory_has_private_parents(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir(mode=0o755)
    before = os.umask(0)
    try:
        for _ in range(2):
            files.make_private(there / "a" / "b" / "c")
    finally:
        os.umask(before)
    for path in (there / "a", there / "a/b", there / "a/b/c"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(there.stat().st_mode) == 0o755
    (there / "file").touch()
    with pytest.raises(FileExistsError):
        files.make_private(there / "file")
    with pytest.raises(NotADirectoryError):
        files.make_private(there / "file" / "x")


def test_another_version_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    files.write_json(path, {"version": 2})
    with pytest.raises(FormatError, match="version 2 is not 1"):
        files.read_json(path, version=1)


def test_garbage_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text("{")
    with pytest.raises(FormatError, match=r"state\.json: not JSON"):
        files.read_json(path, version=1)


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    path = directory / "x"
    files.write_atomic(path, b"old")
    (directory / "x.dir").mkdir()
    with pytest.raises(OSError):
        files.write_atomic(directory / "x.dir", b"new")
    assert path.read_bytes() == b"old"
    assert sorted(p.name for p in directory.iterdir()) == ["x", "x.dir"]


def test_a_tree_is_removed_and_what_its_links_lead_to_is_not(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("kept")
    tree = tmp_path / "tree"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/b/file").write_text("x")
    (tree / "a/directory").symlink_to(kept)
    (tree / "file").symlink_to(kept / "file")
    (tree / "nowhere").symlink_to("nowhere")
    files.remove_tree(tree)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (kept / "file").read_text() == "kept"


def test_only_a_directory_is_a_tree(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    link, file = tmp_path / "link", tmp_path / "file"
    link.symlink_to(directory)
    file.write_text("x")
    for path in (link, file, tmp_path / "missing"):
        files.remove_tree(path)
    assert directory.is_dir()
    assert link.is_symlink()
    assert file.read_text() == "x"


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_stays(
    tmp_path: Path,
) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = tmp_path / f".state.json.{ended.pid}.ab12.tmp"
    written = tmp_path / f".state.json.{os.getpid()}.ab12.tmp"
    other = tmp_path / ".something.tmp"
    for path in (left, written, other):
        path.touch()
    files.remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([written, other])
    files.remove_leftovers(tmp_path / "nowhere")


def test_what_matches_is_found_in_order(tmp_path: Path) -> None:
    for name in ("b/x/meta.json", "a/y/meta.json", "a/.z/meta.json", "a/y/other", "c"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for pattern in (
        "*/*/meta.json",
        "a/*/meta.json",
        "*",
        "a/y/*",
        "none/*",
        "c/*",
        "a/y/meta.json",
    ):
        assert files.matching(tmp_path, pattern) == sorted(tmp_path.glob(pattern))
    assert files.matching(tmp_path / "none", "*") == []


def test_a_directory_that_is_removed_after_it_was_listed_has_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/x", "b/x"):
        (tmp_path / name).mkdir(parents=True)
    listdir = os.listdir

    def and_then_goes(path: Path) -> list[str]:
        found = listdir(path)
        if path == tmp_path:
            shutil.rmtree(tmp_path / "a")
        return found

    monkeypatch.setattr(os, "listdir", and_then_goes)
    assert files.matching(tmp_path, "*/*") == [tmp_path / "b/x"]
