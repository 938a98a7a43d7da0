"""What was removed on a read-only mount is made again in /dev; everything else where it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from architect.core.errors import FormatError
from architect.shim.keeper import claims, ghosts
from architect.shim.layers.places import Mounted
from architect.shim.packets import protobuf
from support import criuimage
from support.criuimage import data, number

TABLE = [
    Mounted(point="/", kind="overlay", is_read_only=False),
    Mounted(point="/dev", kind="tmpfs", is_read_only=False),
    Mounted(point="/config", kind="ext4", is_read_only=True),
    Mounted(point="/etc/app.conf", kind="ext4", is_read_only=True),
    Mounted(point="/config/cache", kind="tmpfs", is_read_only=False),
]
GHOST, LINKED, PROCFS = 1, 0, 2


def image(directory: Path, names: dict[int, str], remaps: list[tuple[int, int, int]]) -> Path:
    files = [criuimage.regular(name, identity=identity) for identity, name in names.items()]
    socket = protobuf.message([number(1, 5), number(2, 999), data(16, b"")])
    criuimage.put(directory / "files.img", *files, socket)
    entries = [
        protobuf.message([number(1, file), number(2, to), number(3, kind)])
        for file, to, kind in remaps
    ]
    criuimage.put(directory / "remap-fpath.img", *entries)
    return directory


def names_in(directory: Path) -> dict[int, str]:
    return ghosts._names(directory)


def renamed(directory: Path) -> dict[int, str]:
    """Return the names that are others now."""
    before = names_in(directory)
    count = ghosts.rename(directory, claims.ghosts(directory), TABLE)
    after = names_in(directory)
    changed = {each: after[each] for each in before if after[each] != before[each]}
    assert count == len(changed)
    assert before.keys() == after.keys()
    return changed


def test_a_removed_file_of_a_read_only_mount_is_made_in_dev(tmp_path: Path) -> None:
    names = {1: "/config/..2026/run.sh", 2: "/tmp/x", 3: "/config/..2027/run.sh", 4: "/config/y"}
    image(tmp_path, names, [(1, 1, GHOST), (2, 2, GHOST)])
    assert renamed(tmp_path) == {1: "/dev/.architect-removed-1-run.sh"}
    assert renamed(tmp_path) == {}, "once is enough"


@pytest.mark.parametrize(
    ("name", "is_moved"),
    [
        ("/config/a", True),
        ("/config", False),  # it would be made in the root
        ("/config/cache/a", False),
        ("/config/cache", True),
        ("/configuration/a", False),
        ("/etc/app.conf", False),
        ("/a", False),
        ("/dev/.architect-removed-1-a", False),
    ],
)
def test_what_counts_is_the_mount_of_its_directory(
    tmp_path: Path, name: str, is_moved: bool
) -> None:
    image(tmp_path, {7: name}, [(7, 1, GHOST)])
    assert bool(renamed(tmp_path)) is is_moved


@pytest.mark.parametrize("kind", [LINKED, PROCFS])
def test_other_remaps_stay(tmp_path: Path, kind: int) -> None:
    image(tmp_path, {7: "/config/a", 8: "/config/b"}, [(7, 8, kind)])
    assert claims.ghosts(tmp_path) == {}


def test_all_names_of_one_file_are_on_one_mount(tmp_path: Path) -> None:
    names = {1: "/config/a", 2: "/tmp/a", 3: "/tmp/b"}
    image(tmp_path, names, [(1, 5, GHOST), (2, 5, GHOST), (3, 6, GHOST)])
    assert renamed(tmp_path).keys() == {1, 2}


def test_names_of_different_files_are_different(tmp_path: Path) -> None:
    names = {
        1: "/config/1/data",
        2: "/config/2/data",
        3: "/dev/.architect-removed-1-data",
        4: "/config/" + "ä" * 127,
        5: "/config/\udcff",
    }
    image(tmp_path, names, [(each, each, GHOST) for each in names])
    new = renamed(tmp_path)
    assert new.keys() == {1, 2, 4, 5}
    assert len({*names_in(tmp_path).values()}) == len(names)
    # CRIU puts ".cr.NUMBER.ghost" or ".cr_link" behind it.
    assert all(
        len(name.rpartition("/")[2].encode(errors="surrogateescape")) < 200 for name in new.values()
    )


def test_an_image_that_cannot_be_read_stays_as_it_is(tmp_path: Path) -> None:
    image(tmp_path, {1: "/config/a"}, [(1, 1, GHOST)])
    whole = (tmp_path / "files.img").read_bytes()
    (tmp_path / "files.img").write_bytes(whole[:-1])
    with pytest.raises(FormatError):
        ghosts.rename(tmp_path, {1: 1}, TABLE)
    assert (tmp_path / "files.img").read_bytes() == whole[:-1]


MAPS = b"""\
7f00-7f01 r-xp 00000000 08:01 12 /config/..1/lib.so (deleted)
7f01-7f02 r--p 00001000 08:01 12 /config/..1/lib.so (deleted)
7f02-7f03 r--p 00000000 08:01 13 /config/..1/lib.so (deleted)
7f03-7f04 r--p 00000000 08:01 14 /config/..1/with a blank (deleted)
7f04-7f05 r--p 00000000 08:01 15 /config/..2/lib.so
7f05-7f06 rw-p 00000000 00:00 0
7f06-7f07 rw-p 00000000 00:00 0 [heap]
"""


def test_each_mapped_file_that_was_removed_is_found_once() -> None:
    assert list(ghosts.mapped(MAPS)) == [
        ("7f00-7f01", "/config/..1/lib.so (deleted)"),
        ("7f02-7f03", "/config/..1/lib.so (deleted)"),
        ("7f03-7f04", "/config/..1/with a blank (deleted)"),
    ]
    assert list(ghosts.mapped(b"")) == []


def test_memory_is_no_removed_file() -> None:
    table = [Mounted(point="/", kind="overlay", is_read_only=True)]
    for name in ("/memfd:x", "/SYSV00000000", "/dev/zero", "/[aio]"):
        assert not ghosts._is_lost(f"{name} (deleted)", table)
    assert ghosts._is_lost("/x (deleted)", table)
    assert not ghosts._is_lost("/x", table)
    assert not ghosts._is_lost("anon_inode:x (deleted)", table)


def test_what_a_killed_criu_has_made_is_looked_for_where_criu_makes_it() -> None:
    assert list(ghosts.leftovers("/mnt/..1/run.sh", 0x1A)) == [
        "/mnt/..1/run.sh.cr.1a.ghost",
        "/mnt/run.sh.cr.1a.ghost",
        "/run.sh.cr.1a.ghost",
        "/mnt/..1/run.sh.cr_link",
    ]


def test_it_is_removed_and_nothing_else_is(tmp_path: Path) -> None:
    """The root of this process stands for the container's."""
    directory = tmp_path / "data"
    directory.mkdir()
    for name in ("x", "y.cr.3.ghost", "z", "z.cr.4.ghost", "x.cr.9.ghost"):
        (directory / name).write_text(name)
    (directory / "x.cr.2.ghost").hardlink_to(directory / "x")
    (directory / "y.cr_link").hardlink_to(directory / "y.cr.3.ghost")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "w.cr.5.ghost").write_text("")
    (tmp_path / "link").symlink_to(outside)
    names = {2: f"{directory}/x", 3: f"{directory}/y", 4: f"{directory}/z", 5: f"{tmp_path}/link/w"}
    ghosts._tidy(os.getpid(), names, {each: each for each in names}, TABLE)
    assert sorted(os.listdir(directory)) == ["x.cr.9.ghost", "z"]
    assert os.listdir(outside) == ["w.cr.5.ghost"]


@pytest.mark.parametrize(
    ("name", "may"),
    [("/nfs/x", True), ("/etc/one.conf", True), ("/etc/other.conf", False), ("/x", False)],
)
def test_a_server_that_may_be_away_is_not_asked(name: str, may: bool) -> None:
    table = [
        Mounted(point="/", kind="overlay", is_read_only=True),
        Mounted(point="/nfs", kind="nfs4", is_read_only=True),
        Mounted(point="/etc/one.conf", kind="fuse.sshfs", is_read_only=True),
    ]
    assert ghosts._may_hang(name, table) is may
