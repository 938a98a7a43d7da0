"""The page of an init, at every moment of its making."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator

import pytest

from architect.core.errors import NodeError
from architect.shim.keeper import initpage

Init = Callable[[bytes], int]

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@pytest.fixture
def init() -> Iterator[Init]:
    """Start a process that has a page with the given content at descriptor 3."""
    started: list[int] = []

    def start(content: bytes) -> int:
        fd = os.memfd_create("architect-init", os.MFD_ALLOW_SEALING)
        os.write(fd, content)
        if content:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        place = [(os.POSIX_SPAWN_DUP2, fd, initpage.DESCRIPTOR)]
        pid = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {}, file_actions=place)
        os.close(fd)
        started.append(pid)
        return pid

    yield start
    for pid in started:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def page(*head: int) -> bytes:
    return struct.pack(f"<{len(head)}I", *head).ljust(mmap.PAGESIZE, b"\0")


@pytest.mark.parametrize("content", [b"", page(), page(initpage.MAGIC, 0)])
def test_a_page_that_is_not_complete_is_none_yet(init: Init, content: bytes) -> None:
    with pytest.raises(initpage.NotOurInit):
        initpage.InitPage(init(content))


def test_a_process_without_a_page_is_not_our_init() -> None:
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        with pytest.raises(initpage.NotOurInit):
            initpage.InitPage(process.pid)
    finally:
        process.communicate()


def test_a_lower_runtimes_process_that_has_a_socket_there_is_not_our_init_yet() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        place = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), initpage.DESCRIPTOR)]
        pid = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {}, file_actions=place)
    try:
        with pytest.raises(initpage.NotOurInit):
            initpage.InitPage(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_page_of_another_version_is_told_from_none(init: Init) -> None:
    with pytest.raises(NodeError, match="version 2") as caught:
        initpage.InitPage(init(page(initpage.MAGIC, 2)))
    assert not isinstance(caught.value, initpage.NotOurInit)


def test_a_complete_page_is_read(init: Init) -> None:
    reading = initpage.InitPage(init(page(initpage.MAGIC, 1, 0, 17, 0, 0))).read()
    assert (reading.state, reading.target) == (initpage.InitState.AWAKE, 17)


def test_an_init_that_has_ended_is_told_nothing_and_that_is_no_error(init: Init) -> None:
    """The keeper finds out where it waits for what init does."""
    child = subprocess.Popen(["true"])
    mapped = initpage.InitPage(init(page(initpage.MAGIC, initpage.PAGE_VERSION)))
    child.wait()
    mapped._init_pid = child.pid
    for tell in (mapped.fall_asleep, mapped.wake, mapped.start, lambda: mapped.end(137)):
        tell()
    assert mapped.read().state is initpage.InitState.END
    mapped.close()
