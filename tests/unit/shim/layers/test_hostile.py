"""Archives that nobody should have made, and targets that lead elsewhere."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.core.errors import NodeError
from architect.shim.layers import archive, beneath
from architect.shim.layers.archive import ArchiveError, Entry, Kind, Limits
from architect.shim.layers.reader import Reader
from support.archives import applied, directory, member, opened, packed
from support.archives import archive as made
from support.trees import Tree, tree

UID, GID = os.getuid(), os.getgid()
FILE = (member("file"), b"data")


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    """A target beside files that must stay as they are, with links to them in it."""
    outside = tmp_path / "outside"
    (outside / "directory").mkdir(parents=True)
    (outside / "secret").write_text("secret")
    (outside / "directory" / "secret").write_text("secret")
    before: Tree = tree(outside)
    root = tmp_path / "target"
    root.mkdir()
    (root / "to-directory").symlink_to(outside / "directory")
    (root / "to-parent").symlink_to("../outside")
    (root / "to-file").symlink_to(outside / "secret")
    (root / "inner").mkdir()
    (root / "inner" / "up").symlink_to("../..")
    (root / "proc").symlink_to("/proc/self/root")
    yield root
    assert tree(outside) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "target"]


def refused(data: bytes, target: Path, **options: object) -> str:
    with pytest.raises(ArchiveError) as caught:
        applied(data, target, **options)  # type: ignore[arg-type]
    assert str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize(
    "name",
    [
        *("../outside/new", "inner/../../outside/new", "..", "inner/..", "/tmp/x", "//x"),
        *("inner//x", "./x", "inner/./x", ".", "n" * 256, "a/" + "n" * 256, "x/" * 2100 + "x"),
        *("", "to-parent/../x", "../target/x", "inner/", "nul\0name"),
    ],
)
def test_names_that_are_no_path_below_the_root_are_refused(target: Path, name: str) -> None:
    entry = member("name", pax_headers={"path": name})
    assert refused(made(directory("inner"), (entry, b"evil")), target) == "BadName"


@pytest.mark.parametrize(
    "name", ["./x/", "../x/", "/x/", "x//", "/", "//", "x/../y/", "../", "././"]
)
def test_names_of_directories_are_no_better(target: Path, name: str) -> None:
    entry = member("name", tarfile.DIRTYPE, mode=0o755, pax_headers={"path": name})
    assert refused(made(entry), target) == "BadName"


@pytest.mark.parametrize(
    "members",
    [
        [FILE, FILE],
        [directory("a"), directory("a")],
        [directory("a"), (member("a"), b"x")],
        [FILE, member("file", tarfile.SYMTYPE, linkname="x")],
        [(member("b"), b"x"), (member("a"), b"x")],
        [(member("a/b"), b"x")],
        [directory("a"), (member("a/b/c"), b"x")],
        [directory("a"), directory("b"), (member("a/c"), b"x")],
        [FILE, (member("file/below"), b"x")],
        # What unsafe readers follow: a link, then something below it.
        [member("a", tarfile.SYMTYPE, linkname="../outside"), (member("a/x"), b"evil")],
        [member("inner", tarfile.SYMTYPE, linkname="/"), (member("inner/x"), b"evil")],
        [directory("./")],
        [directory("a"), directory("./")],
    ],
)
def test_names_out_of_order_or_twice_are_refused(target: Path, members: list[Any]) -> None:
    assert refused(made(*members), target) == "BadOrder"


def test_an_archive_begins_with_its_root(target: Path) -> None:
    assert refused(made(FILE, has_root=False), target) == "BadOrder"
    assert refused(made(has_root=False), target) == "BadOrder"


def test_links_of_the_target_are_replaced_and_not_followed(target: Path) -> None:
    applied(
        made(
            directory("inner"),
            directory("inner/up"),
            (member("inner/up/x"), b"new"),
            directory("proc"),
            (member("proc/x"), b"new"),
            directory("to-directory"),
            (member("to-directory/secret"), b"new"),
            (member("to-file"), b"new"),
            (member("to-parent", tarfile.SYMTYPE, linkname="/etc")),
        ),
        target,
    )
    assert not (target / "to-directory").is_symlink()
    assert (target / "to-directory" / "secret").read_bytes() == b"new"
    assert not (target / "to-file").is_symlink()
    assert (target / "proc" / "x").read_bytes() == b"new"
    assert os.readlink(target / "to-parent") == "/etc"


def test_deletions_do_not_follow_links_of_the_target(target: Path) -> None:
    (target / "deep" / "er").mkdir(parents=True)
    (target / "deep" / "er" / "out").symlink_to(target.parent / "outside")
    gone = {"devmajor": 0, "devminor": 0}
    applied(
        made(
            *(member(name, tarfile.CHRTYPE, **gone) for name in ("deep", "inner", "never-was")),
            *(member(name, tarfile.CHRTYPE, **gone) for name in ("proc", "to-directory")),
            *(member(name, tarfile.CHRTYPE, **gone) for name in ("to-file", "to-parent")),
            kind="layer",
        ),
        target,
        Kind.LAYER,
    )
    assert not list(target.iterdir())


def test_an_opaque_directory_is_emptied_and_a_link_in_its_place_is_not(target: Path) -> None:
    opaque = {"pax_headers": {"SCHILY.xattr.trusted.overlay.opaque": "y"}}
    (target / "inner" / "old" / "tree").mkdir(parents=True)
    applied(
        made(
            directory("inner", **opaque),
            (member("inner/new"), b""),
            directory("to-directory", **opaque),
            kind="layer",
        ),
        target,
        Kind.LAYER,
    )
    assert [path.name for path in (target / "inner").iterdir()] == ["new"]
    assert not (target / "to-directory").is_symlink()


@pytest.mark.parametrize(
    "link",
    [
        *("/etc/passwd", "../outside/secret", "a/../../outside/secret", "", "./a", "x" * 256),
        *(
            "zz-later",
            "link",
            "inner",
            "never-was",
            "to-directory/secret",
            "inner/up/outside/secret",
        ),
        *("to-parent/secret", "proc/etc/passwd", "inner/up"),
    ],
)
def test_hard_links_to_anything_but_an_earlier_file_are_refused(target: Path, link: str) -> None:
    before = {path.name for path in target.iterdir()}
    entry = member("link" if link != "inner/up" else "inner/a", tarfile.LNKTYPE)
    entry.linkname = link
    if link:
        entry.pax_headers = {"linkpath": link}
    reason = refused(made(directory("inner"), entry), target)
    assert reason in ("BadLink", "BadName")
    assert {path.name for path in target.iterdir()} == before


def test_a_hard_link_to_a_link_is_one_to_the_link(target: Path) -> None:
    applied(
        made(
            member("a", tarfile.SYMTYPE, linkname="../outside/secret"),
            member("b", tarfile.LNKTYPE, linkname="a"),
        ),
        target,
    )
    assert os.readlink(target / "b") == "../outside/secret"


@pytest.mark.parametrize("kind", ["volume", "layer"])
@pytest.mark.parametrize("device", [tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_device_nodes_are_refused_unless_allowed(target: Path, kind: str, device: bytes) -> None:
    entry = member("disk", device, devmajor=8, devminor=0)
    assert refused(made(entry, kind=kind), target, kind=Kind(kind)) == "DeviceRefused"
    assert not (target / "disk").exists()


@pytest.mark.parametrize(("major", "minor"), [(0o7777777, 0), (1, 0o7777777), (4096, 1)])
def test_impossible_devices_are_refused(target: Path, major: int, minor: int) -> None:
    entry = member("disk", tarfile.CHRTYPE, devmajor=major, devminor=minor)
    assert refused(made(entry), target, devices=True) == "BadHeader"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trusted.overlay.redirect", "/etc"),
        ("trusted.overlay.metacopy", ""),
        ("trusted.overlay.opaque", "y"),
        ("trusted.overlay.whiteout", "y"),
        ("trusted.any", "y"),
        ("security.selinux", "x"),
        ("security.ima", "x"),
        ("system.other", "x"),
        ("userx", "x"),
        ("", "x"),
        ("user.nul\0", "x"),
        ("user." + "n" * 255, "x"),
    ],
)
def test_attributes_that_do_not_travel_are_refused(target: Path, name: str, value: str) -> None:
    entry = member("file", pax_headers={f"SCHILY.xattr.{name}": value})
    assert refused(made((entry, b"x")), target) == "BadXattr"


def test_the_root_cannot_be_opaque_nor_a_directory_in_a_strange_way(target: Path) -> None:
    key = "SCHILY.xattr.trusted.overlay.opaque"
    root = directory("./", pax_headers={key: "y"})
    assert refused(made(root, has_root=False, kind="layer"), target, kind=Kind.LAYER) == "BadXattr"
    strange = directory("a", pax_headers={key: "x"})
    assert refused(made(strange, kind="layer"), target, kind=Kind.LAYER) == "BadXattr"


def test_sizes_are_bounded_before_anything_is_written(target: Path) -> None:
    limits = Limits(bytes=100, file_bytes=1000, entries=4, depth=2)
    assert refused(made((member("a"), b"x" * 101)), target, limits=limits) == "TooLarge"
    assert not (target / "a").exists()
    two = made((member("a"), b"x" * 60), (member("b"), b"x" * 60))
    assert refused(two, target, limits=limits) == "TooLarge"
    assert not (target / "b").exists()
    many = made(*(member(f"f{number}") for number in range(9)))
    assert refused(many, target, limits=limits) == "TooManyEntries"
    assert not (target / "f3").exists()
    deep = made(directory("a"), directory("a/b"), directory("a/b/c"))
    assert refused(deep, target, limits=limits) == "TooDeep"


@pytest.mark.parametrize("size", [str(1 << 62), "9" * 19, "9" * 400, "-1", "1e9", "", "0x10", " 1"])
def test_declared_sizes_are_not_believed(target: Path, size: str) -> None:
    entry = member("file", pax_headers={"size": size})
    assert refused(made(entry), target) in ("TooLarge", "BadHeader")


def sparse(map_text: bytes, data: bytes, *, size: object = 100, **others: str) -> bytes:
    """Return an archive of one sparse file; in *others*, `_` stands for `.`."""
    head = map_text.ljust(-(-len(map_text) // 512) * 512, b"\0")
    keys = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "file",
        "GNU.sparse.realsize": str(size),
    }
    keys.update({key.replace("_", "."): value for key, value in others.items()})
    return made((member("file", pax_headers={k: v for k, v in keys.items() if v}), head + data))


def test_a_sparse_file_of_other_tools_is_read(target: Path) -> None:
    applied(sparse(b"2\n10\n3\n100\n0\n", b"abc"), target)
    assert (target / "file").read_bytes() == bytes(10) + b"abc" + bytes(87)


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"1", b"x\n", b"1\n-1\n3\n", b"1\n0\n4\n", b"1\n0\n2\n", b"1\n98\n3\n"),
        *(b"2\n0\n2\n1\n1\n", b"2\n5\n2\n0\n1\n", b"1\n99999999999999999999\n3\n"),
        *(b"9999999999\n", b"99999999999999999999999999999\n", b"1\n0003\n3\n", b"3\n0\n3\n"),
        *(b"1\n0\n3\nmore", b"0\n", b"1\n1\n18446744073709551615\n", b"01\n0\n3\n"),
    ],
)
def test_maps_of_sparse_files_that_are_wrong_are_refused(target: Path, text: bytes) -> None:
    assert refused(sparse(text, b"abc"), target) in ("BadSparse", "BadHeader", "Truncated")
    assert not (target / "file").exists()


def test_a_sparse_file_is_as_long_as_the_caller_allows(target: Path) -> None:
    limits = Limits(file_bytes=1 << 20)
    bomb = sparse(b"1\n0\n3\n", b"abc", size=1 << 50)
    assert refused(bomb, target, limits=limits) == "TooLarge"
    assert not (target / "file").exists()


@pytest.mark.parametrize(
    "keys",
    [
        {"GNU_sparse_major": "0"},
        {"GNU_sparse_minor": "1"},
        {"GNU_sparse_name": ""},
        {"GNU_sparse_realsize": ""},
        {"GNU_sparse_realsize": "-5"},
        {"path": "other"},
        {"GNU_sparse_size": "5"},
        {"GNU_sparse_name": "../file"},
    ],
)
def test_other_sparse_formats_are_refused(target: Path, keys: dict[str, str]) -> None:
    data = sparse(b"1\n0\n3\n", b"abc", **keys)
    assert refused(data, target) in ("BadSparse", "BadHeader", "BadName")


def test_an_unknown_version_is_named(target: Path) -> None:
    with pytest.raises(ArchiveError, match="version 2 is not 1") as caught:
        applied(made(FILE, version="2"), target)
    assert caught.value.reason == "UnknownVersion"
    assert refused(made(FILE, version="01"), target) == "UnknownVersion"


def test_a_layer_is_no_volume(target: Path) -> None:
    assert refused(made(FILE, kind="layer"), target) == "WrongKind"
    assert refused(made(FILE, kind="volume"), target, kind=Kind.LAYER) == "WrongKind"
    assert refused(made(FILE, kind="other"), target) == "WrongKind"


@pytest.mark.parametrize("kind", [b"7", b"D", b"S", b"L", b"V", b"g", b"\0", b"s"])
def test_other_types_of_entries_are_refused(target: Path, kind: bytes) -> None:
    assert refused(made(member("thing", kind)), target) == "BadHeader"


@pytest.mark.parametrize("key", ["unknown", "GNU.volume.label", "SCHILY.acl.access", "realtime"])
def test_unknown_records_are_refused(target: Path, key: str) -> None:
    assert refused(made(member("file", pax_headers={key: "x"})), target) == "BadHeader"


@pytest.mark.parametrize(
    "values",
    [
        {"uid": str((1 << 32) - 1)},
        {"gid": "-1"},
        {"mtime": "tomorrow"},
        {"mtime": "1e5"},
        {"mtime": "9" * 30},
        {"hdrcharset": "ISO-IR 10646 2000 UTF-8"},
    ],
)
def test_impossible_values_are_refused(target: Path, values: dict[str, str]) -> None:
    assert refused(made(member("file", pax_headers=values)), target) == "BadHeader"


@pytest.mark.parametrize(
    "text", [b"x", b"5 a=b\n", b"6 a=b", b"0 a=b\n", b"99 a=b\n", b"6 ab=\n\n", b"5 ab\n", b"4 =\n"]
)
def test_malformed_records_are_refused(text: bytes) -> None:
    with pytest.raises(ArchiveError):
        archive.parse_records(text)


@given(data=st.binary(max_size=300))
def test_records_of_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        found = archive.parse_records(data)
    except ArchiveError:
        return
    assert archive.records(found.items()) == data


@given(
    pairs=st.dictionaries(st.binary(min_size=1).filter(lambda key: b"=" not in key), st.binary())
)
def test_records_come_back_as_they_were(pairs: dict[bytes, bytes]) -> None:
    assert archive.parse_records(archive.records(pairs.items())) == pairs


@given(time_ns=st.integers(min_value=-(10**20), max_value=10**20))
def test_times_come_back_as_they_were(time_ns: int) -> None:
    assert archive.parse_time(archive.time_text(time_ns)) == time_ns


@given(name=st.binary())
def test_names_of_attributes_come_back_as_they_were(name: bytes) -> None:
    assert archive.xattr_name(archive.xattr_key(name)) == name
    assert b"=" not in archive.xattr_key(name)


def test_an_archive_cut_anywhere_is_refused(everything: Path, tmp_path: Path) -> None:
    whole = packed(everything)
    for length in (*range(0, len(whole) - 1, 509), len(whole) - 1):
        with opened(whole[:length]) as fd, pytest.raises(ArchiveError) as caught:
            for _ in Reader(fd, kind=Kind.VOLUME, limits=Limits()):
                pass
        assert caught.value.reason == "Truncated", length
    for share in (0.2, 0.7, 0.99):
        target = tmp_path / f"target-{share}"
        target.mkdir()
        assert refused(whole[: int(len(whole) * share)], target) == "Truncated"


def test_what_follows_the_end_is_refused(target: Path) -> None:
    whole = _sample()
    applied(whole, target)
    assert refused(whole + b"x", target) == "BadHeader"
    assert refused(whole + bytes(1 << 20), target) == "BadHeader"
    assert refused(whole + whole, target) == "BadHeader"


@given(position=st.floats(min_value=0, max_value=1), value=st.integers(min_value=1, max_value=255))
def test_a_changed_byte_is_refused_or_a_valid_archive(position: float, value: int) -> None:
    # The manifest's SHA-256 guards the content; here nothing may fail in another way.
    data = bytearray(_sample())
    data[int(position * (len(data) - 1))] ^= value
    with opened(bytes(data)) as fd:
        try:
            for entry in Reader(fd, kind=Kind.VOLUME, limits=Limits()):
                assert archive.header(entry)
        except ArchiveError as error:
            assert error.reason


def _sample() -> bytes:
    found: list[tuple[archive.Name, bytes, dict[str, Any]]] = [
        ((), archive.DIRECTORY, {"mode": 0o755}),
        ((b"a",), archive.DIRECTORY, {"mode": 0o700, "xattrs": {b"user.a": b"b"}, "mtime_ns": -5}),
        ((b"a", b"\xff"), archive.REGULAR, {"mode": 0o644}),
        ((b"b",), archive.HARD_LINK, {"link": (b"a", b"\xff")}),
        ((b"c",), archive.SYMLINK, {"target": b"../x"}),
        ((b"d",), archive.REGULAR, {"size": 1 << 30, "segments": ((1 << 30, 0),)}),
        ((b"e",), archive.CHARACTER, {}),
    ]
    entries = [Entry(name=n, type=t, uid=UID, gid=GID, **v) for n, t, v in found]
    body = b"".join(map(archive.header, entries))
    return archive.preamble(Kind.VOLUME) + body + archive.END


def test_setuid_files_of_an_archive_belong_to_who_it_says(target: Path) -> None:
    applied(made((member("tool", mode=0o4755), b"#!")), target)
    found = (target / "tool").stat()
    assert stat.S_IMODE(found.st_mode) == 0o4755
    assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())


def test_a_neighbour_who_swaps_what_is_made_gains_nothing(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another container of the pod writes to the same emptyDir while it is filled.
    outside = target.parent / "outside"
    real = beneath.open_below

    def swapped(parent: int, name: bytes, flags: int) -> int:
        if name == b"fifo":
            os.unlink(name, dir_fd=parent)
            os.symlink(outside / "secret", name, dir_fd=parent)
        return real(parent, name, flags)

    monkeypatch.setattr(beneath, "open_below", swapped)
    with pytest.raises(NodeError) as caught:
        applied(made(member("fifo", tarfile.FIFOTYPE, mode=0o4777)), target)
    assert caught.value.reason == "TargetChanged"


def test_a_tree_in_the_way_may_be_deep_but_not_endless(target: Path) -> None:
    here = os.open(target, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(NodeError) as caught:
        applied(made((member("d"), b"x")), target)
    assert caught.value.reason == "TooDeep"
    (target / "inner" / "old").mkdir()
    applied(made((member("inner"), b"x")), target)
    assert (target / "inner").read_bytes() == b"x"
