"""A layer is what an application changed: applied to the same image it gives the same files."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from architect.core.errors import NodeError
from architect.shim.layers import places
from architect.shim.layers.archive import ArchiveError, Kind
from architect.shim.layers.pack import pack
from support.archives import applied, archive, directory, member, packed
from support.overlays import READ_ONLY, Root
from support.trees import ACL_ACCESS, ACL_DEFAULT, CAPABILITY, acl_for, capability, tree

Make = Callable[..., Root]


def travelled(source: Root, target: Root) -> None:
    """Bring what was changed in *source* to *target*."""
    upper = places.upper_directory(source.pid)
    applied(packed(upper, Kind.LAYER), target.view, Kind.LAYER, devices=True)


def assert_same(source: Root, target: Root, *, skip: frozenset[bytes] = frozenset()) -> None:
    one, two = tree(source.view, skip=skip), tree(target.view, skip=skip)
    assert one.keys() == two.keys()
    for path in one:
        assert one[path] == two[path], path


def bound(path: Path) -> None:
    """Make a socket at *path*, which may be long."""
    place = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{place}/{path.name}")
    os.close(place)


def work_in(root: Path) -> None:
    """Do what applications do, each to files of the image and to new ones."""
    # Files: new, changed, deleted, renamed, replaced.
    (root / "new").mkdir()
    (root / "new/file").write_bytes(b"new")
    (root / "new/empty").touch()
    with open(root / "etc/passwd", "a") as file:
        file.write("appended")
    (root / "etc/gone").unlink()
    (root / "etc/keep").rename(root / "etc/kept")
    (root / "etc/cron/daily").rename(root / "moved away")
    os.truncate(root / "srv/static/page", 3)
    shutil.rmtree(root / "replaced/by file")
    (root / "replaced/by file").write_text("was a directory")
    (root / "replaced/file").unlink()
    (root / "replaced/file").mkdir()
    (root / "replaced/file/x").write_text("was a file")
    (root / "replaced/link").unlink()
    (root / "replaced/link").mkdir()
    (root / "replaced/link/x").write_text("was a link")
    # Directories: deleted, made anew (opaque), with a deletion below.
    shutil.rmtree(root / "var/log")
    shutil.rmtree(root / "opt/app")
    (root / "opt/app/sub").mkdir(parents=True)
    (root / "opt/app/sub/new").write_text("the old ones are gone")
    shutil.rmtree(root / "opt/old")
    (root / "opt/old").mkdir()
    # Links.
    os.link(root / "usr/bin/plain", root / "usr/bin/plain too")
    os.link(root / "new/file", root / "new/file again")
    os.link(root / "new/file", root / "zz hard link")
    os.link(root / "usr/linked", root / "usr/linked three")
    (root / "new/loop").symlink_to("loop")
    (root / "new/up").symlink_to("../new/up/..")
    (root / "new/out").symlink_to("/proc/self/root/../../etc/passwd")
    os.link(root / "new/out", root / "new/out again", follow_symlinks=False)
    # Owners, modes, attributes.
    os.chown(root / "home/user/.profile", 1001, 2**32 - 2)
    os.chown(root / "home/user", 70_000, 2**31)
    os.lchown(root / "new/loop", 1000, 1000)
    (root / "usr/bin/plain").chmod(0o2711)
    shutil.copy(root / "usr/bin/tool", root / "new/tool")
    os.chown(root / "new/tool", 1000, 0)
    (root / "new/tool").chmod(0o6755)
    (root / "srv").chmod(0o3770)
    os.setxattr(root / "usr/bin/plain", CAPABILITY, capability(10, 12))
    os.setxattr(root / "new/tool", CAPABILITY, capability(10))
    os.setxattr(root / "new/file", ACL_ACCESS, acl_for(1000))
    os.setxattr(root / "new", ACL_DEFAULT, acl_for(1000))
    (root / "new/inherits").write_text("from its directory")
    (root / "new/inherits too").mkdir()
    (root / "new/does not").write_text("inherit")
    os.removexattr(root / "new/does not", ACL_ACCESS)
    os.setxattr(root / "new/file", "user.note", bytes(range(256)))
    os.setxattr(root / "new/file", "user.a=b%3D", b"")
    os.removexattr(root / "plain", "user.lower")
    os.removexattr(root / "home/user/.profile", "user.lower")
    os.removexattr(root / "home/user", ACL_ACCESS)
    # Other kinds.
    (root / "socket").unlink()
    bound(root / "socket")
    bound(root / "new/socket")
    (root / "fifo").unlink()
    os.mkfifo(root / "fifo", 0o622)
    os.mknod(root / "new/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "new/loop0", stat.S_IFBLK | 0o660, os.makedev(7, 0))
    os.link(root / "new/null", root / "new/null again")
    # Names and sizes.
    (root / os.fsdecode(b"new/\xff\xfe\n\t ")).write_text("no UTF-8")
    (root / ("n" * 255)).write_text("long")
    (root / "ü" / ("d" * 200) / ("e" * 200)).mkdir(parents=True)
    with open(root / "new/sparse", "wb") as file:
        file.truncate(1 << 30)
        file.seek(512 << 20)
        file.write(b"8 KiB of" * 1024)
    (root / "new/large").write_bytes(os.urandom(3 << 20))
    # Times, last: they are what an application set, to the nanosecond.
    for path, time_ns in {
        "new/file": 1_111_111_111_111_111_111,
        "new/loop": 1_222_222_222_222_222_222,
        "new/null": 1_333_333_333_333_333_333,
        "fifo": -1_500_000_000,
        "new": 1_444_444_444_444_444_444,
        "opt/app": 1_555_555_555_555_555_555,
        "home": 1,
        "": 1_666_666_666_666_666_666,
    }.items():
        os.utime(root / path, ns=(0, time_ns), follow_symlinks=False)


def test_all_that_was_done_in_a_container_is_so_in_the_next(make: Make) -> None:
    first, second, third = make(), make(), make()
    work_in(first.view)
    travelled(first, second)
    # The names of sockets are gone, also where the image has a file of that name.
    sockets = frozenset({b"socket", b"new/socket"})
    assert_same(first, second, skip=sockets)
    assert not any(os.path.lexists(second.view / os.fsdecode(path)) for path in sockets)
    # And on to another node, where the deletions of deletions count.
    (second.view / "new/file").unlink()
    shutil.rmtree(second.view / "plain")
    (second.view / "etc/gone").write_text("back again")
    travelled(second, third)
    assert_same(second, third)


def test_the_changed_file_system_needs_no_more_space_elsewhere(make: Make) -> None:
    first, second = make(), make()
    with open(first.view / "sparse", "wb") as file:
        file.truncate(1 << 30)
        file.write(b"x" * 8192)
    data = packed(places.upper_directory(first.pid), Kind.LAYER)
    assert len(data) < 100_000
    travelled(first, second)
    assert (second.view / "sparse").stat().st_size == 1 << 30
    assert (second.view / "sparse").stat().st_blocks * 512 < 100_000


def test_nothing_done_is_nothing_changed(make: Make) -> None:
    first, second = make(), make()
    before = tree(first.view)
    travelled(first, second)
    assert tree(second.view) == tree(first.view) == before


@pytest.fixture
def binds(tmp_path: Path) -> dict[str, Path]:
    """What an engine mounts: files and directories of the node, some of them the volumes."""
    node = tmp_path / "node"
    for path in ("volume/inner", "secrets", "proc"):
        (node / path).mkdir(parents=True)
    for path in ("hosts", "termination-log", "volume/inner/file", "secrets/token"):
        (node / path).write_text(f"the node's {path}")
    return {
        "/data": node / "volume",
        "/etc/hosts": node / "hosts",
        "/made/termination-log": node / "termination-log",
        "/run/secrets/token": node / "secrets",
        "/proc": node / "proc",
    }


MOUNTS = frozenset({b"data", b"etc/hosts", b"made/termination-log", b"run/secrets/token", b"proc"})


def test_what_an_engine_mounts_is_not_the_layers(
    make: Make, binds: dict[str, Path], tmp_path: Path
) -> None:
    first, second = make(binds=binds), make(binds=binds)
    work_in(first.view)
    (first.view / "data/new").write_text("in the volume")
    node, mounts = tree(tmp_path / "node"), second.mounts()
    travelled(first, second)
    assert tree(tmp_path / "node") == node
    assert second.mounts() == mounts
    assert_same(first, second, skip=MOUNTS | {b"socket", b"new/socket"})


def test_a_hostile_layer_does_not_reach_what_is_mounted(
    make: Make, binds: dict[str, Path], tmp_path: Path
) -> None:
    root = make(binds=binds)
    node, mounts = tree(tmp_path / "node"), root.mounts()
    opaque = {"pax_headers": {"SCHILY.xattr.trusted.overlay.opaque": "y"}}
    gone = {"devmajor": 0, "devminor": 0}
    written = archive(
        directory("data", **opaque, mtime=5),
        directory("data/inner"),
        (member("data/inner/file"), b"evil"),
        member("data/link", tarfile.SYMTYPE, linkname="/"),
        directory("etc", **opaque),
        (member("etc/hosts", mode=0o666), b"evil"),
        (member("etc/x"), b"fine"),
        member("made", tarfile.CHRTYPE, **gone),
        directory("proc", **opaque),
        (member("proc/x"), b"evil"),
        directory("run", **opaque),
        kind="layer",
    )
    summary = applied(written, root.view, Kind.LAYER)
    assert summary.left_out == 8
    assert sorted(path.name for path in (root.view / "etc").iterdir()) == ["hosts", "x"]
    assert [path.name for path in (root.view / "run").iterdir()] == ["secrets"]
    assert [path.name for path in (root.view / "made").iterdir()] == ["termination-log"]
    deletions = archive(
        *(member(name, tarfile.CHRTYPE, **gone) for name in ("data", "etc", "home", "made")),
        *(member(name, tarfile.CHRTYPE, **gone) for name in ("proc", "run")),
        kind="layer",
    )
    applied(deletions, root.view, Kind.LAYER)
    assert not (root.view / "home").exists()
    for name in (*map(os.fsdecode, sorted(MOUNTS)), "data/inner/file"):
        link = archive(member("z", tarfile.LNKTYPE, linkname=name), kind="layer")
        with pytest.raises(ArchiveError) as caught:
            applied(link, root.view, Kind.LAYER)
        assert caught.value.reason == "BadLink"
    with pytest.raises(NodeError) as replacing:
        applied(archive((member("run"), b"x"), kind="layer"), root.view, Kind.LAYER)
    assert replacing.value.reason == "MountPoint"
    assert tree(tmp_path / "node") == node
    assert root.mounts() == mounts


def test_an_image_whose_links_lead_to_the_node_gains_nothing(make: Make, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("the node's")
    before = tree(outside)
    root = make()
    shutil.rmtree(root.view / "opt")
    (root.view / "opt").symlink_to(outside)
    (root.view / "x").symlink_to(outside / "file")
    written = archive(
        directory("opt"), (member("opt/file"), b"evil"), (member("x"), b"evil"), kind="layer"
    )
    applied(written, root.view, Kind.LAYER)
    assert (root.view / "opt/file").read_bytes() == b"evil"
    assert tree(outside) == before


def test_a_renamed_directory_that_left_its_content_below_is_refused(make: Make) -> None:
    root = make(options=",redirect_dir=on")
    (root.view / "opt").rename(root.view / "moved")
    with pytest.raises(NodeError, match="moved") as caught:
        packed(root.upper, Kind.LAYER)
    assert caught.value.reason == "RedirectedDirectory"


def test_a_file_that_left_its_content_below_is_refused(make: Make) -> None:
    root = make(options=",redirect_dir=on,metacopy=on")
    (root.view / "etc/passwd").chmod(0o600)
    with pytest.raises(NodeError, match="passwd") as caught:
        packed(root.upper, Kind.LAYER)
    assert caught.value.reason == "MetadataOnly"


def test_the_newer_form_of_deletions_is_understood(make: Make, tmp_path: Path) -> None:
    upper = tmp_path / "hand-made"
    (upper / "etc").mkdir(parents=True)
    os.setxattr(upper / "etc", "trusted.overlay.opaque", b"x")
    (upper / "etc/gone").touch()
    os.setxattr(upper / "etc/gone", "trusted.overlay.whiteout", b"")
    (upper / "etc/new").write_text("new")
    # Marks that mean nothing where they are.
    os.setxattr(upper, "trusted.overlay.opaque", b"y")
    os.setxattr(upper / "etc/new", "trusted.overlay.whiteout", b"")
    os.setxattr(upper / "etc/new", "trusted.overlay.opaque", b"y")
    os.setxattr(upper / "etc/new", "trusted.overlay.origin", b"id")
    root = make()
    applied(packed(upper, Kind.LAYER), root.view, Kind.LAYER)
    assert not (root.view / "etc/gone").exists()
    assert (root.view / "etc/keep").exists()
    assert (root.view / "etc/new").read_text() == "new"


def test_the_upper_directory_is_found_through_the_process(make: Make, tmp_path: Path) -> None:
    root = make()
    assert places.upper_directory(root.pid) == root.upper
    strange = Root(tmp_path / "with blank\ttab\nline", [tmp_path / "base"])
    found = places.upper_directory(strange.pid)
    strange.close()
    assert found == strange.upper
    with pytest.raises(NodeError) as caught:
        places.upper_directory(strange.pid)
    assert caught.value.reason == "ContainerGone"


def test_a_read_only_root_says_so(make: Make) -> None:
    root = make(flags=READ_ONLY)
    with pytest.raises(NodeError) as caught:
        applied(archive((member("x"), b"x"), kind="layer"), root.view, Kind.LAYER)
    assert caught.value.reason == "ReadOnly"


def test_device_nodes_travel_only_where_they_could_be_made(make: Make, tmp_path: Path) -> None:
    first, second = make(), make()
    os.mknod(first.view / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    data = packed(first.upper, Kind.LAYER)
    with pytest.raises(ArchiveError) as caught:
        applied(data, second.view, Kind.LAYER)
    assert caught.value.reason == "DeviceRefused"
    applied(data, second.view, Kind.LAYER, devices=True)
    assert (second.view / "null").stat().st_rdev == os.makedev(1, 3)


def test_an_upper_directory_in_a_volume_is_a_plain_tree(make: Make, tmp_path: Path) -> None:
    # As builders of images keep it in an emptyDir: deletions are its content.
    root = make()
    work_in(root.view)
    target = tmp_path / "volume"
    target.mkdir()
    applied(packed(root.upper), target, devices=True)
    skip = frozenset({b"new/socket", b"socket"})
    one, two = tree(root.upper, skip=skip), tree(target)
    assert one == two
    assert stat.S_ISCHR((target / "etc/gone").lstat().st_mode)


def test_shared_memory_travels(tmp_path: Path) -> None:
    with _Tmpfs(tmp_path / "one", size="64m") as one, _Tmpfs(tmp_path / "two", size="64m") as two:
        (one / "sem.app").write_bytes(bytes(32))
        (one / "segment").write_bytes(os.urandom(1 << 20))
        os.truncate(one / "segment", 32 << 20)
        one.chmod(0o1777)
        applied(packed(one), two)
        assert tree(two) == tree(one)


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "large").write_bytes(bytes(range(256)) * 16384)
    with _Tmpfs(tmp_path / "small", size="1m") as small:
        with pytest.raises(NodeError, match="large") as caught:
            applied(packed(source), small)
        assert caught.value.reason == "NoSpace"
        out = os.open(small / "archive", os.O_CREAT | os.O_WRONLY)
        (small / "large").unlink()
        with pytest.raises(NodeError) as packing:
            pack(source, out, kind=Kind.VOLUME)
        os.close(out)
        assert packing.value.reason == "NoSpace"


def test_what_is_mounted_in_a_volume_is_left_out(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    with _Tmpfs(source / "mounted", size="1m") as mounted:
        (mounted / "file").write_text("another's")
        applied(packed(source), target)
    assert not list(target.iterdir())


class _Tmpfs:
    """A tmpfs for a ``with`` block, below the test's own directory."""

    def __init__(self, path: Path, *, size: str) -> None:
        self._path = path
        self._size = size

    def __enter__(self) -> Path:
        self._path.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={self._size}", "tmpfs", self._path], check=True
        )
        return self._path

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", self._path], check=True)
        self._path.rmdir()
