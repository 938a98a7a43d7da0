"""Trees that need no root: packed, applied, compared; and read by tools that are not ours."""

from __future__ import annotations

import io
import os
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.core.errors import NodeError
from architect.shim.layers import archive, beneath
from architect.shim.layers.archive import ArchiveError, Kind, Limits
from architect.shim.layers.pack import pack
from architect.shim.layers.reader import Reader
from support.archives import applied, opened, packed
from support.runtime import CHECKOUT
from support.trees import ACL_ACCESS, ACL_DEFAULT, acl_for, tree

NAMES = st.binary(min_size=1, max_size=12).filter(
    lambda name: name not in (b".", b"..") and not set(name) & set(b"\0/")
)
LONG_NAMES = st.sampled_from([b"n" * 255, "ü".encode() * 127, b"\xff" * 255, b"%3D=%25"])
TIMES = st.integers(min_value=-(2**31) * 10**9, max_value=2**33 * 10**9)
MODES = st.integers(min_value=0, max_value=0o7777)
FILES = st.tuples(st.just("file"), st.binary(max_size=70_000), MODES, TIMES)
LEAVES = st.one_of(
    FILES,
    st.tuples(st.just("link"), st.binary(min_size=1, max_size=300), MODES, TIMES).filter(
        lambda leaf: b"\0" not in leaf[1]
    ),
    st.tuples(st.just("fifo"), st.just(b""), MODES, TIMES),
    st.tuples(st.just("again"), st.just(b""), MODES, TIMES),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.tuples(
        st.just("directory"),
        st.dictionaries(st.one_of(NAMES, LONG_NAMES), inner, max_size=5),
        MODES,
        TIMES,
    ),
    max_leaves=12,
)


def make(path: bytes, wanted: tuple[Any, ...], earlier: list[bytes]) -> None:
    kind, content, mode, time_ns = wanted
    if kind == "directory":
        os.mkdir(path)
        for name, inner in content.items():
            make(os.path.join(path, name), inner, earlier)
    elif kind == "link":
        os.symlink(content, path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "again" and earlier:
        os.link(earlier[-1], path, follow_symlinks=False)
    else:
        Path(os.fsdecode(path)).write_bytes(content)
    if kind != "directory":
        earlier.append(path)
    if kind != "link" and not (kind == "again" and os.path.islink(path)):
        # What its owner may not read is root's to pack.
        os.chmod(path, mode | (0o700 if kind == "directory" else 0o600))
    os.utime(path, ns=(0, time_ns), follow_symlinks=False)


@given(wanted=TREES)
def test_a_tree_is_the_same_after_pack_and_apply(wanted: tuple[Any, ...]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        source, target = Path(directory, "source"), Path(directory, "target")
        source.mkdir()
        target.mkdir()
        make(os.fsencode(source / "top"), wanted, [])
        data = packed(source)
        summary = applied(data, target)
        assert tree(target) == tree(source)
        assert summary.entries == len(tree(source))
        assert packed(target) == data


def test_a_tree_of_everything_is_the_same(everything: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    applied(packed(everything), target)
    assert tree(target) == tree(everything)


def test_what_was_in_the_way_is_replaced_and_the_rest_stays(
    everything: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    (target / "link" / "full").mkdir(parents=True)
    (target / "link" / "full" / "of").write_text("files")
    (target / "directory").write_text("was a file")
    (target / "file").symlink_to("/etc/passwd")
    os.mkfifo(target / "own")
    applied(packed(everything), target)
    assert stat.S_ISFIFO((target / "own").lstat().st_mode)
    assert tree(target, skip=frozenset({b"own"})) == tree(everything)


def test_attributes_that_were_inherited_or_there_before_are_gone(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "inner").mkdir(parents=True)
    (source / "file").write_text("x")
    (target / "inner").mkdir(parents=True)
    os.setxattr(target, ACL_DEFAULT, acl_for(os.getuid()))
    os.setxattr(target / "inner", "user.old", b"value")
    assert (target / "inner").stat()
    applied(packed(source), target)
    assert tree(target) == tree(source)


def test_an_acl_and_the_mode_of_its_file_agree(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "file").write_text("x")
    os.setxattr(source / "file", ACL_ACCESS, acl_for(os.getuid()))
    applied(packed(source), target)
    assert tree(target) == tree(source)
    assert os.getxattr(target / "file", ACL_ACCESS) == acl_for(os.getuid())


def test_holes_stay_holes_and_cost_nothing(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for name, pieces in {
        "middle": [(100 << 20, b"data" * 1024)],
        "ends": [(0, b"a"), ((1 << 30) - 1, b"z")],
        "nothing": [],
        "many": [(n << 14, b"p" * 4096) for n in range(300)],
    }.items():
        with open(source / name, "wb") as file:
            file.truncate(1 << 30)
            for offset, content in pieces:
                file.seek(offset)
                file.write(content)
    data = packed(source)
    assert len(data) < 2 << 20
    applied(data, target)
    assert tree(target) == tree(source)
    for name in ("middle", "ends", "nothing", "many"):
        assert (target / name).stat().st_blocks <= (source / name).stat().st_blocks + 16


def test_sockets_of_a_volume_are_left_out(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        place = os.open(source, os.O_PATH)
        listener.bind(f"/proc/self/fd/{place}/sock")  # a short name for a long path
        os.close(place)
    with tempfile.TemporaryFile() as file:
        summary = pack(source, file.fileno(), kind=Kind.VOLUME)
    assert (summary.entries, summary.left_out) == (1, 1)
    applied(packed(source), target)
    assert not list(target.iterdir())


def test_a_pipe_will_do_in_both_directions(everything: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (everything / "large").write_bytes(os.urandom(3 << 20))
    words = [sys.executable, "-m", "architect.shim.layers"]
    producer = subprocess.Popen([*words, "pack", "volume", str(everything)], stdout=subprocess.PIPE)
    done = subprocess.run(
        [*words, "apply", "volume", str(target)],
        stdin=producer.stdout,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert producer.stdout is not None
    producer.stdout.close()
    assert (producer.wait(), done.returncode) == (0, 0), done.stderr
    assert tree(target) == tree(everything)


def test_the_command_line_names_what_is_wrong() -> None:
    words = [sys.executable, "-m", "architect.shim.layers", "check", "volume"]
    done = subprocess.run(words, input=b"no archive", capture_output=True)
    assert done.returncode == ArchiveError.exit_code
    assert b'"Truncated"' in done.stderr


def test_ordinary_tools_read_it(everything: Path, tmp_path: Path) -> None:
    # Names that are no UTF-8, and holes, too.
    data = packed(everything)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = {os.fsencode(name).rstrip(b"/") for name in tar.getnames()}
        assert names - {b"."} == {path for path in tree(everything) if path}
        sparse = tar.extractfile("sparse")
        assert sparse is not None
        assert sparse.read() == (everything / "sparse").read_bytes()
    target = tmp_path / "by-tar"
    target.mkdir()
    done = subprocess.run(
        ["tar", "--xattrs", "--xattrs-include=user.*", "-xpf", "-", "-C", str(target)],
        input=data,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    own, other = tree(everything), tree(target)
    assert own.keys() == other.keys()
    for path in own:
        for what in ("type", "mode", "mtime_ns", "target", "content", "same as"):
            assert own[path].get(what) == other[path].get(what), (path, what)


def test_the_same_tree_gives_the_same_bytes(everything: Path) -> None:
    assert packed(everything) == packed(everything)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(entries=3), "TooManyEntries"),
        (Limits(bytes=1000), "TooLarge"),
        (Limits(file_bytes=1 << 20), "TooLarge"),
        (Limits(depth=1), "TooDeep"),
    ],
)
def test_limits_hold_for_both_directions(
    everything: Path, tmp_path: Path, limits: Limits, reason: str
) -> None:
    with pytest.raises(ArchiveError) as refused:
        packed(everything, limits=limits)
    assert refused.value.reason == reason
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(ArchiveError) as applying:
        applied(packed(everything), target, limits=limits)
    assert applying.value.reason == reason


def test_a_source_that_is_a_link_or_missing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for name in ("link", "missing"):
        with pytest.raises(NodeError, match=name) as caught:
            packed(tmp_path / name)
        assert caught.value.reason == "PackFailed"


def test_a_tree_that_changes_meanwhile_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "b-directory").mkdir(parents=True)
    (source / "b-directory" / "inner").write_text("x")
    target.mkdir()
    for name in ("a-vanishes", "c-shrinks", "d-grows", "e-stays"):
        (source / name).write_bytes(b"1" * 100_000)
    real = beneath.open_below

    def interfering(directory: int, name: bytes, flags: int) -> int:
        if name == b"a-vanishes":
            (source / "a-vanishes").unlink()
        fd = real(directory, name, flags)
        if name == b"b-directory":
            shutil.rmtree(source / "b-directory")
        return fd

    real_header = archive.header

    def header(entry: archive.Entry) -> bytes:
        found = real_header(entry)
        if entry.name == (b"c-shrinks",):
            os.truncate(source / "c-shrinks", 70_000)
        if entry.name == (b"d-grows",):
            os.truncate(source / "d-grows", 200_000)
        return found

    monkeypatch.setattr(beneath, "open_below", interfering)
    monkeypatch.setattr(archive, "header", header)
    data = packed(source)
    monkeypatch.undo()
    applied(data, target)
    assert {path.name for path in target.iterdir()} == {"c-shrinks", "d-grows", "e-stays"}
    assert (target / "c-shrinks").read_bytes() == b"1" * 70_000 + bytes(30_000)
    assert (target / "d-grows").read_bytes() == b"1" * 100_000


def test_reading_without_applying_tells_what_is_in_it(everything: Path) -> None:
    with opened(packed(everything)) as fd:
        reader = Reader(fd, kind=Kind.VOLUME, limits=Limits())
        names = [b"/".join(entry.name) for entry in reader]
    assert names == sorted(tree(everything), key=lambda path: path.split(b"/"))
    assert reader.summary.entries == len(names)


def test_the_page_about_formats_tells_the_version() -> None:
    page = (CHECKOUT / "docs/formats.md").read_text()
    assert f"`ARCHITECT.version={archive.VERSION}`" in page
    for reason in ("UnknownVersion", "WrongKind", "Truncated", "DeviceRefused"):
        assert reason in page
