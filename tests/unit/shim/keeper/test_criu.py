"""What the fork server is asked."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from architect.shim.keeper import cgroups, criu
from architect.shim.keeper.loop import Loop, Timer
from support.patience import patient


@pytest.fixture(autouse=True)
def _without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mounts are for the kernel tests."""

    def plain(directory: Path) -> int:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    monkeypatch.setattr(criu, "_apart", plain)


def dump(image: Path) -> criu.Request:
    return criu.Request.dump(init_pid=os.getpid(), image=image, tree_pid=7, highest_pid=20)


def test_a_request_is_one_message_of_tokens(tmp_path: Path) -> None:
    tokens = dump(tmp_path).message(3).decode().split("\0")
    assert tokens[:8] == [
        *("id=3", "kind=dump", "ns=mnt,uts,net,cgroup", "pid=84", "last-pid=100"),
        *("cgroups=0", "fds=0", "--"),
    ]
    assert tokens[8:11] == ["dump", "-t", "7"]


def test_a_restore_gets_inits_pipes_in_the_order_of_its_arguments(tmp_path: Path) -> None:
    request = criu.Request.restore(
        init_pid=1,
        image=tmp_path,
        pipes={"pipe:[12]": 2, "pipe:[11]": 1},
        highest_pid=20,
        cgroups=[tmp_path],
        is_moved=False,
    )
    assert request.inherited == (1, 2)
    assert "--tcp-established" in request.arguments
    assert "fd[200]:pipe:[11]" in request.arguments
    assert "fd[201]:pipe:[12]" in request.arguments
    assert b"cgroups=1\0fds=2\0" in request.message(1)


def test_whoever_has_the_requests_descriptors_is_at_work(tmp_path: Path) -> None:
    assert not criu.is_working(tmp_path)
    with dump(tmp_path).descriptors() as fds:
        assert criu.is_working(tmp_path)
        copy = os.dup(fds[2])
        with pytest.raises(BlockingIOError), dump(tmp_path).descriptors():
            pass
    assert criu.is_working(tmp_path)
    os.close(copy)
    assert not criu.is_working(tmp_path)


def test_cgroups_are_entered_without_a_grace_period(tmp_path: Path) -> None:
    v1, v2 = tmp_path / "cpu,cpuacct", tmp_path / "unified"
    v1.mkdir()
    v2.mkdir()
    (v1 / "tasks").touch()
    entrances = cgroups.entrances({"cpu": v1, "cpuacct": v1, "": v2})
    assert entrances == [v1 / "tasks", v2]
    request = criu.Request.restore(
        init_pid=os.getpid(),
        image=tmp_path,
        pipes={},
        highest_pid=9,
        cgroups=entrances,
        is_moved=True,
    )
    assert "--tcp-close" in request.arguments  # in another pod connections have ended
    with request.descriptors() as fds:
        assert fcntl.fcntl(fds[3], fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
        assert os.readlink(f"/proc/self/fd/{fds[4]}") == str(v2)


def test_a_killed_criu_says_nothing_about_the_application(tmp_path: Path) -> None:
    assert criu.failure(tmp_path, criu.Kind.DUMP, 137).reason == "CriuKilled"
    (tmp_path / "dump.log").write_text("(00.01) Error (criu/x.c:1): No space left on device\n")
    assert criu.failure(tmp_path, criu.Kind.DUMP, 1).reason == "NoSpace"
    assert criu.failure(tmp_path, criu.Kind.DUMP, 128 + 40).reason == "NoSpace"


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def program(path: Path, text: str) -> Path:
    """Write what stands in for the fork server; it is renamed, so that none is half written."""
    draft = path.with_suffix(".draft")
    draft.write_text(f"#!/bin/sh\n{text}\n")
    draft.chmod(0o755)
    draft.rename(path)
    return path


def until(loop: Loop, condition: Callable[[], object]) -> None:
    end = time.monotonic() + patient(60.0)
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        loop.run_once(at_most_seconds=0.1)


def kill(server: criu.Server) -> int:
    """Kill the process of *server*, and return what its pid was."""
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return pid


@pytest.mark.parametrize("lived", ["long", "shortly"])
def test_a_server_that_was_killed_is_started_anew_before_anybody_asks(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lived: str
) -> None:
    monkeypatch.setattr(criu, "FIRST_PAUSE_SECONDS", 0.0 if lived == "long" else 0.2)
    server = criu.Server(loop, program(tmp_path / "server", "exec sleep 1000"))
    server.prepare()
    seen: list[int] = []
    for _ in range(3):
        seen.append(kill(server))
        until(loop, lambda: server.pid not in (None, seen[-1]))
    kill(server)
    server.close()


def test_a_server_that_cannot_live_is_tried_ever_more_rarely(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criu, "MAX_PAUSE_SECONDS", 45.0)
    waits: list[float] = []
    monkeypatch.setattr(loop, "call_later", lambda seconds, _: waits.append(seconds))
    server = criu.Server(loop, tmp_path / "server")  # there is none
    for _ in range(4):
        server.prepare()
    assert waits == [10.0, 20.0, 40.0, 45.0]
    assert server.pid is None


def test_one_that_could_not_be_started_is_started_when_it_can_be(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criu, "FIRST_PAUSE_SECONDS", 0.05)
    server = criu.Server(loop, tmp_path / "server")
    server.prepare()
    assert server.pid is None
    program(tmp_path / "server", "exec sleep 1000")
    until(loop, lambda: server.pid is not None)
    kill(server)
    server.close()


def test_however_many_servers_ended_one_start_is_promised(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promised: list[Timer] = []
    later = loop.call_later

    def call_later(seconds: float, callback: Callable[[], None]) -> Timer:
        promised.append(later(seconds, callback))
        return promised[-1]

    monkeypatch.setattr(loop, "call_later", call_later)
    server = criu.Server(loop, tmp_path / "server")  # there is none
    for _ in range(4):
        server.prepare()
    assert [timer.callback is not None for timer in promised] == [False, False, False, True]
    server.close()
    assert promised[-1].callback is None
