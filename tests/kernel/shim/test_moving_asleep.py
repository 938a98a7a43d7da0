"""A pod that slept when it left sleeps on in its successor, and wakes there with its memory."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from architect.core.errors import NodeError
from support.mover import COUNTING, POLICY, Mover, numbers
from support.neighbour import Neighbour
from support.runtime import DEADLINE_SECONDS, Container, eventually, python

SERVER = """
import socket
s = socket.create_server(("0.0.0.0", 7000))
print("listening", flush=True)
answered = 0
while True:
    c, _ = s.accept()
    answered += 1
    c.sendall(b"%d" % answered)
    if answered > 1: c.close()
"""
"""Keeps its first connection open."""

HOOKED = {
    **POLICY,
    "containers": {"app": {"after_restore": ["sh", "-c", "echo HOOK >/proc/1/fd/1"]}},
}


def volume(directory: Path) -> dict[str, Any]:
    """Return a mount of *directory* at ``/data``."""
    options = ["rbind", "rw"]
    return {"destination": "/data", "type": "bind", "source": str(directory), "options": options}


def answered(pod: Container) -> bytes:
    """Return what the server says to a new peer."""
    with Neighbour(pod.pid) as peer, peer.connect() as connection:
        return connection.recv(100)


def moved_asleep(
    mover: Mover, uid: str, pod: Container, *, to: str, with_data: bool = False
) -> Path:
    """Have a pod sleep, and leave; return where what was saved of it waits."""
    if mover.state(uid) != "asleep":
        mover.ask("sleep", pod=uid, reason="test")
    before = pod.output()
    mover.leave(pod, with_data=with_data)
    assert pod.output() == before
    return mover.bring(uid, to=to)


def slept(mover: Mover, *, policy: dict[str, Any] = POLICY) -> tuple[Container, Container]:
    """Return a pod that counted, slept and left, and the one in which it sleeps on."""
    old = mover.counting("uid-a", policy=policy)
    moved_asleep(mover, "uid-a", old, to="uid-b")
    new = mover.pod("uid-b", policy=policy).start()
    assert mover.state("uid-b") == "asleep"
    return old, new


def assert_goes_on(new: Container, *, after: Container) -> None:
    last = numbers(after)[-1]
    eventually(lambda: len(numbers(new)) > 3, what="output of the successor")
    seen = numbers(new)
    assert seen == list(range(last + 1, last + 1 + len(seen)))


@pytest.mark.parametrize("is_keeper_killed", [False, True], ids=["", "its keeper killed"])
def test_it_sleeps_on_until_a_packet_comes_and_its_hook_runs_then(
    mover: Mover, is_keeper_killed: bool
) -> None:
    old = mover.pod("uid-a", python(SERVER), policy=HOOKED).start()
    old.until("listening")
    with Neighbour(old.pid) as peer, peer.connect() as connection:
        assert connection.recv(100) == b"1"
        moved_asleep(mover, "uid-a", old, to="uid-b")
        connection.settimeout(DEADLINE_SECONDS)
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
    with mover.events() as events:
        new = mover.pod("uid-b", python(SERVER), policy=HOOKED)
        new.create()
        mover.ask("ready", pod="uid-b", containers={"app": False})  # as of any pod that begins
        new.call("start", new.id)
        told = events.until("restored")
    assert (told["container"], told["state"]) == ("app", "asleep")
    if is_keeper_killed:
        mover.kill_keeper()
    assert mover.state("uid-b") == "asleep"
    assert new.output() == ""
    with mover.events() as events:
        assert answered(new) == b"2"
        woke, hook = events.until("woke"), events.until("hook")
    assert woke["reason"].startswith("connection from 10.9.0.1")
    assert (hook["pod"], hook["status"]) == ("uid-b", 0)
    new.until("HOOK\n")  # who reads it for the engine is another process
    mover.ask("sleep", pod="uid-b", reason="test")
    assert answered(new) == b"3"
    assert new.output() == "HOOK\n"


def test_exec_wakes_it(mover: Mover) -> None:
    old, new = slept(mover)
    assert numbers(new) == []
    assert new.exec("true") == 0
    assert mover.state("uid-b") == "awake"
    assert_goes_on(new, after=old)


def test_it_moves_on_asleep_and_its_signal_wakes_it_where_it_does_not(mover: Mover) -> None:
    old, between = slept(mover)
    moved_asleep(mover, "uid-b", between, to="uid-c")
    new = mover.pod("uid-c").start()
    assert mover.state("uid-c") == "asleep"
    assert between.output() == "", "it never ran there"
    del mover.daemon.answers["leaving"]
    new.kill("TERM")
    assert new.wait() == 5
    assert new.output().endswith("got TERM\n")
    assert (numbers(new) or [numbers(old)[-1] + 1])[0] == numbers(old)[-1] + 1


@pytest.mark.parametrize("wish", ["fresh", "fail"])
def test_an_image_that_cannot_be_restored_is_kept(mover: Mover, wish: str) -> None:
    _, new = slept(mover, policy={**POLICY, "on_restore_failure": wish})
    kept = mover.host.state / "architect/pods/uid-b/app"
    os.truncate(kept / "image" / "pstree.img", 12)
    with mover.events() as events:
        with pytest.raises(NodeError, match=r"pstree\.img"):
            mover.ask("wake", pod="uid-b", reason="test")
        assert events.until("wake-failed")["policy"] == wish
    if wish == "fresh":
        eventually(lambda: len(numbers(new)) > 3, what="output of a fresh start")
        assert numbers(new)[:3] == [1, 2, 3]
        kept = kept / "failed-1"
    else:
        assert mover.state("uid-b") == "failed"
        kept = kept / "image"
    assert (kept / "pstree.img").stat().st_size == 12


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A volume with a file."""
    made = tmp_path / "data"
    made.mkdir()
    (made / "file").write_text("as it was")
    return made


def asleep_with(mover: Mover, data: Path, *, policy: dict[str, Any]) -> tuple[Container, Container]:
    """Return a pod with a volume that counted, slept and left, and the one where it sleeps on."""
    old = mover.counting("uid-a", policy=policy, mounts=[volume(data)])
    moved_asleep(mover, "uid-a", old, to="uid-b", with_data=True)
    new = mover.pod("uid-b", policy=policy, mounts=[volume(data)]).start()
    assert mover.state("uid-b") == "asleep"
    return old, new


@pytest.mark.parametrize("wish", ["fresh", "retry"])
def test_a_volume_that_was_written_while_it_slept_on_is_seen_at_its_wake(
    mover: Mover, data: Path, wish: str
) -> None:
    _, new = asleep_with(mover, data, policy={**POLICY, "on_restore_failure": wish})
    (data / "file").write_text("written by somebody else meanwhile")
    with pytest.raises(NodeError, match="volume data was written since the pod was saved") as told:
        mover.ask("wake", pod="uid-b", reason="test")
    assert told.value.reason == "VolumeChanged"
    if wish == "fresh":
        eventually(lambda: len(numbers(new)) > 3, what="output of a fresh start")
        assert numbers(new)[:3] == [1, 2, 3]
    else:
        assert mover.state("uid-b") == "failed"
        assert numbers(new) == []


@pytest.mark.parametrize("is_written", [False, True])
def test_what_it_knows_of_its_volume_moves_on_with_it(
    mover: Mover, data: Path, is_written: bool
) -> None:
    old, between = asleep_with(mover, data, policy=POLICY)
    if is_written:
        (data / "file").write_text("written by somebody else meanwhile")
    moved_asleep(mover, "uid-b", between, to="uid-c", with_data=True)
    new = mover.pod("uid-c", mounts=[volume(data)]).start()
    kept = mover.host.state / "architect/pods/uid-c"
    if is_written:
        eventually(lambda: len(numbers(new)) > 3, what="output of a fresh start")
        assert numbers(new)[:3] == [1, 2, 3]
        assert (kept / "app/failed-1/inventory.img").exists()
    else:
        assert mover.state("uid-c") == "asleep"
        assert (kept / "data.json").exists()
        assert new.exec("true") == 0
        assert_goes_on(new, after=old)
        assert not (kept / "data.json").exists(), "from here on it writes there itself"


PAIR = {**POLICY, "containers": {"app": {}, "more": {}}}


@contextmanager
def network() -> Iterator[Path]:
    """Make a pod's network namespace."""
    holder = ["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"]
    with subprocess.Popen(holder, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield Path(f"/proc/{process.pid}/ns/net")
        finally:
            process.kill()


def pair(mover: Mover, uid: str, netns: Path, data: Path | None = None) -> list[Container]:
    """Return the containers of a pod with two, not created yet; the second has volume *data*."""
    script = ["sh", "-c", COUNTING]
    mounts = [] if data is None else [volume(data)]
    return [
        mover.pod(uid, script, policy=PAIR, container=name, netns=netns, mounts=has)
        for name, has in (("app", []), ("more", mounts))
    ]


@pytest.mark.parametrize("wakes", ["at the end", "between the two"])
def test_all_containers_of_a_pod_sleep_on_and_wake_as_one(mover: Mover, wakes: str) -> None:
    with network() as here, network() as there:
        old = pair(mover, "uid-a", here)
        for container in old:
            container.start().until("3\n")
        mover.ask("sleep", pod="uid-a", reason="test")
        for container in old:
            mover.leave(container)
        mover.bring("uid-a", to="uid-b")
        first, second = new = pair(mover, "uid-b", there)
        first.start()
        second.create()
        mover.kill_keeper()
        assert mover.state("uid-b") == "asleep"
        if wakes == "between the two":
            assert first.exec("true") == 0
            assert_goes_on(first, after=old[0])
        second.call("start", second.id)
        if wakes == "at the end":
            assert mover.state("uid-b") == "asleep"
            assert first.output() == second.output() == ""
            assert second.exec("true") == 0
        assert mover.state("uid-b") == "awake"
        for before, after in zip(old, new, strict=True):
            assert_goes_on(after, after=before)
        for container in (*old, *new):
            container.remove()


def test_one_that_wakes_before_the_container_of_a_volume_is_there_keeps_its_memory(
    mover: Mover, data: Path
) -> None:
    with network() as here, network() as there:
        old = pair(mover, "uid-a", here, data)
        for container in old:
            container.start().until("3\n")
        mover.ask("sleep", pod="uid-a", reason="test")
        mover.leave(old[0], with_data=True, container="more")
        mover.leave(old[1])
        mover.bring("uid-a", to="uid-b")
        first, second = new = pair(mover, "uid-b", there, data)
        first.start()
        assert first.exec("true") == 0
        second.start()
        for before, after in zip(old, new, strict=True):
            assert_goes_on(after, after=before)
        for container in (*old, *new):
            container.remove()


def test_the_keeper_remembers_why_a_pod_sleeps(mover: Mover) -> None:
    for uid, sleeps in (("uid-a", True), ("uid-b", False)):
        mover.counting(uid)
        if sleeps:
            mover.ask("sleep", pod=uid, reason="test")
        for _ in range(2):
            saved = mover.ask("capture", pod=uid, reason="test", patience_seconds=0.2)
            assert saved["has_slept"] is sleeps
            mover.kill_keeper()
        written = json.loads((mover.host.state / "architect/pods" / uid / "pod.json").read_text())
        assert written["sleeps_to_leave"] is not sleeps


@pytest.mark.parametrize("op", ["capture", "copy"])
def test_what_another_criu_has_dumped_is_dumped_anew_before_it_travels(
    mover: Mover, op: str
) -> None:
    pod = mover.counting("uid-a")
    mover.ask("sleep", pod="uid-a", reason="test")
    meta = mover.host.state / "architect/pods/uid-a/app/meta.json"
    ours = json.loads(meta.read_text())
    assert ours["criu"], "it is known which CRIU wrote it"
    before = numbers(pod)
    meta.write_text(json.dumps({**ours, "criu": "3.17"}))
    with mover.events() as events:
        answer = mover.ask(op, pod="uid-a", reason="test", patience_seconds=0.2)
        assert events.until("woke")["reason"] == "another CRIU wrote its image"
    if op == "capture":
        assert answer["has_slept"] is False
    assert json.loads(meta.read_text())["criu"] == ours["criu"]
    mover.ask("wake", pod="uid-a", reason="test")
    eventually(lambda: len(numbers(pod)) > len(before) + 3, what="it goes on")
    assert numbers(pod) == list(range(1, len(numbers(pod)) + 1))
