"""What a container's root may have put in place of its init's files: nothing of it is opened."""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from architect.core.errors import NodeError
from architect.shim.keeper import initfiles, initpage

Holding = Callable[[int, int], int]
"""A descriptor of ours, and the number at which a process is to have it; its pid."""

IN_OPEN = 0x20


@pytest.fixture
def holding() -> Iterator[Holding]:
    started: list[int] = []

    def start(fd: int, number: int) -> int:
        place = [(os.POSIX_SPAWN_DUP2, fd, number)]
        pid = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {}, file_actions=place)
        started.append(pid)
        return pid

    yield start
    for pid in started:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], int]]:
    """How often something in the test's directory was opened so far."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert libc.inotify_add_watch(fd, bytes(tmp_path), IN_OPEN) > 0
    count = 0

    def read() -> int:
        nonlocal count
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return count
        while data:
            (length,) = struct.unpack_from("<I", data, 12)
            data, count = data[16 + length :], count + 1
        return count

    yield read
    os.close(fd)


def test_a_pipe_is_taken_at_either_end(holding: Holding) -> None:
    reader, writer = os.pipe()
    fd = initfiles.take_pipe(holding(writer, 1), 1)
    os.write(fd, b"out")
    assert os.read(reader, 10) == b"out"
    os.close(fd)
    fd = initfiles.take_pipe(holding(reader, 0), 0)
    os.write(writer, b"in")
    assert os.read(fd, 10) == b"in"
    for each in (fd, reader, writer):
        os.close(each)


@pytest.mark.parametrize("kind", ["file", "fifo", "named-like-a-pipe", "memfd"])
def test_what_is_no_pipe_is_not_opened(
    holding: Holding, opened: Callable[[], int], tmp_path: Path, kind: str
) -> None:
    if kind == "memfd":
        fd = os.memfd_create("pipe:[1]")
    else:
        path = tmp_path / ("pipe:[1]" if kind == "named-like-a-pipe" else kind)
        os.mkfifo(path) if kind == "fifo" else path.touch()
        fd = os.open(path, os.O_PATH)
    pid, before = holding(fd, 1), opened()
    with pytest.raises(NodeError, match="was a pipe and is") as caught:
        initfiles.take_pipe(pid, 1)
    assert caught.value.reason == initfiles.STDIO_CHANGED
    assert opened() == before
    os.close(fd)
    # That it would have been seen:
    if kind != "memfd":
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        assert opened() == before + 1


def test_a_device_is_not_opened_though_its_holder_only_points_at_it(holding: Holding) -> None:
    fd = os.open("/dev/null", os.O_PATH)
    pid = holding(fd, 2)
    os.close(fd)
    assert stat.S_ISCHR(os.stat(f"/proc/{pid}/fd/2").st_mode)
    with pytest.raises(NodeError, match="/dev/null"):
        initfiles.take_pipe(pid, 2)


@pytest.mark.parametrize("name", ["memfd:architect-init", "other"])
def test_a_file_in_place_of_the_page_is_not_opened(
    holding: Holding, opened: Callable[[], int], tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(struct.pack("<II", initpage.MAGIC, 1).ljust(4096, b"\0"))
    fd = os.open(path, os.O_PATH)
    pid = holding(fd, initpage.DESCRIPTOR)
    os.close(fd)
    before = opened()
    with pytest.raises(initpage.NotOurInit, match="not our page"):
        initpage.InitPage(pid)
    assert opened() == before


def test_only_the_kernels_own_memory_counts_as_such(holding: Holding, tmp_path: Path) -> None:
    """A file in the root of a container is called like a memfd, as its path is told from there."""
    (tmp_path / "memfd:architect-init").touch()
    shared = Path("/dev/shm") / f"memfd:architect-init-{os.getpid()}"
    shared.touch()
    memory = os.memfd_create("architect-init")
    try:
        for fd, expected in (
            (memory, True),
            (os.open(tmp_path / "memfd:architect-init", os.O_PATH), False),
            (os.open(shared, os.O_PATH), False),
            (os.open("/dev/zero", os.O_PATH), False),
        ):
            taken = initfiles.take(holding(fd, 7), 7)
            assert initfiles.is_memory(taken) is expected
            os.close(taken)
            os.close(fd)
    finally:
        shared.unlink()


def test_a_page_that_could_be_cut_short_is_not_mapped(holding: Holding) -> None:
    """Reading it then would end the keeper (SIGBUS), and with it every wake of the node."""
    fd = os.memfd_create("architect-init", os.MFD_ALLOW_SEALING)
    os.write(fd, struct.pack("<II", initpage.MAGIC, 1).ljust(4096, b"\0"))
    pid = holding(fd, initpage.DESCRIPTOR)
    with pytest.raises(initpage.NotOurInit, match="making its page"):
        initpage.InitPage(pid)
    os.close(fd)
