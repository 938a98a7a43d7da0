"""What an image directory tells about the dump and the restore that were made in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from architect.core.errors import FormatError
from architect.shim.keeper import images


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "image").mkdir()
    return tmp_path


def put(directory: Path, *found: str, **statuses: int) -> None:
    for name in found:
        (directory / "image" / name).touch()
    for kind, status in statuses.items():
        (directory / "image" / f"{kind}.exit").write_text(f"{status}\n")


def test_an_image_is_complete_when_criu_said_so(directory: Path) -> None:
    assert not images.is_complete(directory)
    put(directory, "inventory.img")
    assert not images.is_complete(directory)
    put(directory, dump=0)
    assert images.is_complete(directory)


@pytest.mark.parametrize("killed", [None, 137])
def test_where_nobody_reported_criu_itself_is_believed(directory: Path, killed: int | None) -> None:
    put(directory, "inventory.img", **({} if killed is None else {"dump": killed}))
    assert not images.is_complete(directory)
    put(directory, "stats-dump")
    assert images.is_complete(directory)


@pytest.mark.parametrize("status", [1, images.NOT_REACHED])
def test_a_reported_failure_stands(directory: Path, status: int) -> None:
    put(directory, "inventory.img", "stats-dump", "stats-restore", dump=status, restore=status)
    assert not images.is_complete(directory)
    assert not images.is_restored(directory)


def test_a_new_restore_starts_from_nothing(directory: Path) -> None:
    put(directory, "inventory.img", "stats-restore", dump=0, restore=0)
    assert images.is_restored(directory)
    images.begin_restore(directory)
    assert not images.is_restored(directory)
    assert images.is_complete(directory)


def test_the_pids_of_an_image_are_those_of_its_cores(directory: Path) -> None:
    put(directory, "core-7.img", "core-12.img", "mm-7.img", "core-x.img", "pages-1.img")
    assert images.tree_pids(directory) == {7, 12}


META = images.Meta(
    tree_pid=7, highest_pid=9, pipes={"pipe:[1]": 1}, init_sha="0" * 64, slept_at=1.0
)


def test_what_another_version_wrote_beside_an_image_is_read_as_far_as_it_is_known(
    tmp_path: Path,
) -> None:
    META.write(tmp_path)
    file = tmp_path / "meta.json"
    written = json.loads(file.read_text())
    assert not {"criu", "is_moved", "addresses"} & written.keys(), "earlier versions read it"
    file.write_text(json.dumps({**written, "fromTheNext": True}))
    assert images.Meta.read(tmp_path) == META
    file.write_text(json.dumps({**written, "criu": "4.2.1"}))
    assert images.Meta.read(tmp_path).criu == "4.2.1"
    del written["tree_pid"]
    file.write_text(json.dumps(written))
    with pytest.raises(FormatError, match=r"meta\.json: tree_pid is missing"):
        images.Meta.read(tmp_path)
