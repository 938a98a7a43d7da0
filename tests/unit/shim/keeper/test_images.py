"""What an image directory tells about the dump and the restore that were made in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize(
    "changed",
    [
        {"pipes": {"pipe:[1]\0--external\0mnt[]:/": 1}},
        {"pipes": {"/etc/passwd": 1}},
        {"pipes": {"pipe:[1]\n": 1}},
        {"pipes": {"pipe:[1]": 3}},
        {"pipes": {"pipe:[1]": "1"}},
        {"pipes": {"pipe:[1]": 1.0}},
        {"slept_at": "1"},
        {"pipes": ["pipe:[1]"]},
        {"pipes": None},
        {"tree_pid": "7"},
        {"tree_pid": 0},
        {"highest_pid": True},
        {"highest_pid": -1},
        {"addresses": "10.0.0.1"},
        {"addresses": [["10.0.0.1"]]},
        {"volatile": [1]},
        {"upper": 1},
        {"init_sha": None},
        {"criu": {}},
        {"run": []},
    ],
    ids=str,
)
def test_what_no_keeper_writes_beside_an_image_is_refused(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    META.write(tmp_path)
    file = tmp_path / "meta.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    with pytest.raises(FormatError, match=r"meta\.json: "):
        images.Meta.read(tmp_path)


def test_where_the_files_of_another_pod_lay_is_not_taken_over(
    tmp_path: Path, directory: Path
) -> None:
    arrival = tmp_path / "arrival"
    (arrival / "image").mkdir(parents=True)
    replace(META, upper="/etc", criu="4.2.1", addresses=["10.0.0.1"]).write(arrival)
    images.adopt(directory, arrival=arrival)
    adopted = images.Meta.read(directory)
    assert (adopted.upper, adopted.volatile) == ("", ["/"])
    assert (adopted.is_moved, adopted.criu, adopted.addresses) == (True, "4.2.1", ["10.0.0.1"])


def test_an_image_without_what_a_restore_needs_besides_is_set_aside_all_the_same(
    directory: Path,
) -> None:
    put(directory, "inventory.img")
    assert images.set_aside(directory) == directory / "failed-1"
    assert (directory / "failed-1/inventory.img").exists()


def test_the_highest_pid_of_an_image_without_processes_is_what_was_noted(directory: Path) -> None:
    meta = images.Meta(tree_pid=2, highest_pid=9, pipes={}, init_sha="", slept_at=0.0)
    assert images.highest_pid(directory, meta) == 9
    put(directory, "core-12.img")
    assert images.highest_pid(directory, meta) == 12


def test_whether_a_disk_takes_changes_is_tried(tmp_path: Path) -> None:
    image = images.prepare(tmp_path / "uid" / "app")
    images.try_to_write(image.parent)
    assert list(image.iterdir()) == []
    image.rmdir()
    with pytest.raises(OSError, match="No such file"):
        images.try_to_write(image.parent)
