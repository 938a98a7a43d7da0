"""An image is read as CRIU reads it, or not at all."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.core.errors import FormatError
from architect.shim.keeper import claims
from architect.shim.keeper.claims import Credentials, File, Filter, Thread
from architect.shim.packets import protobuf
from support import criuimage
from support.criuimage import core, credentials, data, number

CREDENTIALS = (criuimage.CORE_THREAD, criuimage.THREAD_CREDENTIALS)


def test_every_thread_of_every_process_is_read(tmp_path: Path) -> None:
    mine = credentials(
        user=7,
        group=8,
        supplementary=(9, 10),
        capabilities=1 << 40 | 1,
        bounding=0b11,
        ambient=1,
        inheritable=1 << 33,
        securebits=16,
        no_new_privileges=True,
        profile="docker-default",
    )
    criuimage.write(
        tmp_path,
        [core(credentials()), core(mine, mode=2, filter_=1)],
        [core(None, state=claims.DEAD)],
        [core(None)],
    )
    criuimage.put(
        tmp_path / "seccomp.img", criuimage.seccomp((b"first", None, 0), (b"second", 0, 1))
    )
    found = claims.read(tmp_path)
    first, dead, bare = found.tasks
    assert dead.threads == ()
    assert bare.threads == (Thread(pid=5, name="app", credentials=None),)
    assert first.threads[1] == Thread(
        pid=3,
        name="app",
        credentials=Credentials(
            users=(7,) * 4,
            groups=(8,) * 4,
            supplementary=frozenset({9, 10}),
            inheritable=1 << 33,
            permitted=1 << 40 | 1,
            effective=1 << 40 | 1,
            bounding=0b11,
            ambient=1,
            securebits=16,
            no_new_privileges=True,
            profile="docker-default",
        ),
        seccomp_mode=2,
        filter=1,
    )
    assert found.filters == (
        Filter(program=b"first"),
        Filter(program=b"second", flags=1, previous=0),
    )
    assert found.outside["mount"] == 9
    assert first.namespaces == {**found.outside, "ipc": 70}
    assert not found.has_profiles


def test_users_and_groups_are_told_apart(tmp_path: Path) -> None:
    def change(fields: list[protobuf.Field]) -> list[protobuf.Field]:
        return [(key, 100 + key // 8) if key // 8 <= 8 else (key, value) for key, value in fields]

    criuimage.write(tmp_path, [core(credentials())])
    criuimage.tamper(tmp_path, change, *CREDENTIALS)
    found = claims.read(tmp_path).tasks[0].threads[0].credentials
    assert found is not None
    assert (found.users, found.groups) == ((101, 103, 105, 107), (102, 104, 106, 108))


def test_sets_that_are_packed_are_the_same(tmp_path: Path) -> None:
    def change(fields: list[protobuf.Field]) -> list[protobuf.Field]:
        words = [value for key, value in fields if key >> 3 == 12 and isinstance(value, int)]
        return [*criuimage.without(12)(fields), data(12, protobuf.packed(words))]

    criuimage.write(tmp_path, [core(credentials(bounding=1 << 40 | 5))])
    criuimage.tamper(tmp_path, change, *CREDENTIALS)
    found = claims.read(tmp_path).tasks[0].threads[0].credentials
    assert found is not None
    assert found.bounding == 1 << 40 | 5


def test_what_the_files_are_is_read_as_far_as_it_matters(tmp_path: Path) -> None:
    criuimage.write(
        tmp_path,
        [core(credentials())],
        files=[
            criuimage.regular("/etc/passwd"),
            criuimage.regular("/proc/7/exe", flags=os.O_PATH | os.O_NOFOLLOW),
            criuimage.unix(b"/run/app.sock\0rest"),
            criuimage.unix(b"app.sock", within="/run"),
            criuimage.unix(b"\0abstract/../name"),
            criuimage.unix(b""),
            criuimage.inet(1),
            criuimage.inet(3),
            protobuf.message([number(1, 10), number(2, 3)]),
            protobuf.message([number(1, 2), number(2, 4)]),
        ],
    )
    found = claims.read(tmp_path)
    assert found.files == (
        File(path="/etc/passwd"),
        File(path="/proc/7/exe", is_link_itself=True),
        File(path="/run/app.sock", is_socket=True),
        File(path="/run/app.sock", is_socket=True),
    )
    assert found.raw_sockets == 2


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("flags", [0, os.O_PATH, os.O_PATH | os.O_NOFOLLOW])
def test_a_link_that_comes_with_the_image_is_not_followed(
    tmp_path: Path, flags: int, is_old: bool
) -> None:
    file = criuimage.regular("/data/gone", flags=flags, identity=4)
    criuimage.write(tmp_path, [core(credentials())], files=[file])
    remap = [number(1, 4), number(2, 10 | is_old << 31), *([] if is_old else [number(3, 1)])]
    criuimage.put(tmp_path / "remap-fpath.img", protobuf.message(remap))
    ghost = protobuf.message([number(1, 0), number(2, 0), number(3, stat.S_IFLNK | 0o777)])
    criuimage.put(tmp_path / "ghost-file-a.img", ghost)
    if flags & os.O_NOFOLLOW:
        claims.read(tmp_path)
    else:
        with pytest.raises(FormatError, match="'/data/gone' is opened through a link"):
            claims.read(tmp_path)


def test_what_c_would_read_in_another_way_is_refused(tmp_path: Path) -> None:
    def twice(fields: list[protobuf.Field]) -> list[protobuf.Field]:
        return [*fields, fields[0]]

    def long(fields: list[protobuf.Field]) -> list[protobuf.Field]:
        return [(fields[0][0], 1 << 32), *fields[1:]]

    def long_word(fields: list[protobuf.Field]) -> list[protobuf.Field]:
        return [*fields, number(11, 1 << 32)]

    def alias(fields: list[protobuf.Field]) -> list[protobuf.Field]:
        return [*fields, (1 << 32 | 1 << 3, 0)]

    def other_kind(fields: list[protobuf.Field]) -> list[protobuf.Field]:
        return [(1 << 3 | 5, b"\0\0\0\0"), *fields[1:]]

    def other_thread(fields: list[protobuf.Field]) -> list[protobuf.Field]:
        return [*fields, data(criuimage.CORE_THREAD, b"")]

    for change, path in (
        *((each, CREDENTIALS) for each in (twice, long, long_word, alias, other_kind)),
        (other_thread, ()),
    ):
        criuimage.write(tmp_path, [core(credentials())])
        claims.read(tmp_path)
        criuimage.tamper(tmp_path, change, *path)
        with pytest.raises(FormatError, match="core-2"):
            claims.read(tmp_path)


@pytest.mark.parametrize("field", [11, 12])
def test_where_earlier_versions_had_seccomp_nothing_may_be(tmp_path: Path, field: int) -> None:
    criuimage.write(tmp_path, [core(credentials(), mode=2, filter_=0)])
    criuimage.tamper(tmp_path, lambda fields: [*fields, number(field, 0)], criuimage.CORE_OWN)
    with pytest.raises(FormatError, match="any more"):
        claims.read(tmp_path)


@pytest.mark.parametrize(
    "name", ["pstree.img", "core-2.img", "core-3.img", "inventory.img", "files.img"]
)
@pytest.mark.parametrize("content", [None, b"", b"x" * 8, struct.pack("=II", 0x54564319, 0)])
def test_an_image_without_one_of_its_files_is_none(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    criuimage.write(tmp_path, [core(credentials()), core(credentials())])
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=name.removesuffix(".img")):
        claims.read(tmp_path)


def test_a_name_that_c_would_end_elsewhere_is_refused(tmp_path: Path) -> None:
    criuimage.write(tmp_path, [core(credentials())], files=[criuimage.regular("/etc\0/x")])
    with pytest.raises(FormatError, match="NUL"):
        claims.read(tmp_path)


def test_the_leader_is_read_though_the_list_of_threads_leaves_it_out(tmp_path: Path) -> None:
    criuimage.write(tmp_path, [core(credentials()), core(credentials())])
    fields = [number(1, 2), number(2, 0), number(3, 2), number(4, 2), number(5, 3)]
    criuimage.put(tmp_path / "pstree.img", protobuf.message(fields))
    (task,) = claims.read(tmp_path).tasks
    assert [thread.pid for thread in task.threads] == [2, 3]


def test_there_are_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    criuimage.write(tmp_path, [core(credentials())] * 3)
    monkeypatch.setattr(claims, "MOST_THREADS", 2)
    with pytest.raises(FormatError, match="more than 2 threads"):
        claims.read(tmp_path)
    criuimage.write(tmp_path, [core(credentials())])
    monkeypatch.setattr(claims, "MOST_FILTERS", 1)
    two = criuimage.seccomp((b"", None, 0), (b"", None, 0))
    criuimage.put(tmp_path / "seccomp.img", two)
    with pytest.raises(FormatError, match="more than 1 filters"):
        claims.read(tmp_path)


def test_policy_for_the_kernel_is_noticed(tmp_path: Path) -> None:
    criuimage.write(tmp_path, [core(credentials())])
    criuimage.put(tmp_path / "apparmor.img")
    assert not claims.read(tmp_path).has_profiles
    criuimage.put(tmp_path / "apparmor.img", b"")
    assert claims.read(tmp_path).has_profiles


@given(word=st.integers(0, (1 << 64) - 1), user=st.integers(0, (1 << 32) - 1))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, word: int, user: int
) -> None:
    directory = tmp_path_factory.mktemp("image")
    criuimage.write(directory, [core(credentials(user=user, capabilities=word))])
    found = claims.read(directory).tasks[0].threads[0].credentials
    assert found is not None
    assert (found.users[0], found.permitted, found.bounding) == (user, word, word)
