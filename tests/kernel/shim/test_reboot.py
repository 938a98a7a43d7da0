"""A machine is rebooted: pods that slept sleep on in their new containers, and wake there."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.mover import POLICY, Mover, numbers
from support.podnetworks import PodNetwork
from support.runtime import Container, children, eventually, python

UID = "uid-a"
LOWER = "/usr/sbin/runc"


def reboot(mover: Mover, *containers: Container) -> None:
    """End every process, and lose all that a reboot loses."""
    (warden,) = mover.host.wardens()
    (keeper,) = children(warden)
    for pid in (warden, keeper):
        os.kill(pid, signal.SIGKILL)
    for container in containers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(container.pid, signal.SIGKILL)
        container.wait()
        # Nobody tells us of it.
        container.runtime = LOWER
        container.call("delete", "--force", container.id)
    # Which reaps what has ended.
    eventually(
        lambda: not mover.host.wardens() and not Path(f"/proc/{keeper}").exists(),
        what="end of warden and keeper",
    )
    mover.daemon.calls.clear()
    for entry in mover.host.run_directory.iterdir():
        if entry.name != "daemon.sock":  # the test's own
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def asleep(mover: Mover, **more: Any) -> Container:
    made = mover.counting(UID, **more)
    mover.ask("sleep", pod=UID, reason="test")
    return made


def goes_on(new: Container, *, after: Container) -> None:
    last = numbers(after)[-1]
    eventually(lambda: len(numbers(new)) > 3, what="output in the new container")
    seen = numbers(new)
    assert seen == list(range(last + 1, last + 1 + len(seen)))


def starts_fresh(new: Container) -> None:
    eventually(lambda: len(numbers(new)) > 3, what="output in the new container")
    assert numbers(new)[0] == 1


def arrivals(mover: Mover) -> list[str]:
    directory = mover.host.state / "architect/arrivals"
    return sorted(e.name for e in directory.iterdir()) if directory.exists() else []


@pytest.mark.parametrize("times", [1, 2])
def test_a_pod_that_slept_sleeps_on_and_wakes_with_its_memory(mover: Mover, times: int) -> None:
    old = new = asleep(mover)
    for _ in range(times):
        reboot(mover, new)
        new = mover.pod(UID).start()
        assert mover.state(UID) == "asleep"
        assert arrivals(mover) == [], "nothing is left of how it came back"
    assert new.output() == ""
    assert mover.daemon.calls == [], "nobody is needed for it"
    mover.ask("wake", pod=UID, reason="test")
    goes_on(new, after=old)
    mover.ask("sleep", pod=UID, reason="test")
    assert new.exec("true") == 0
    assert mover.state(UID) == "awake"


def test_it_is_told_that_it_came_back(mover: Mover) -> None:
    old = asleep(mover)
    reboot(mover, old)
    new = mover.pod(UID)
    new.create()
    with mover.events() as events:
        new.call("start", new.id)
        told = events.until("restored")
    assert (told["container"], told["state"], told["returned"]) == ("app", "asleep", True)


SERVER = """
import os, socket
s = socket.create_server((os.environ["POD_IP"], 7000))
print("listening", flush=True)
answered = 0
while True:
    c, _ = s.accept()
    answered += 1
    c.sendall(f"{answered} {s.getsockname()[0]}".encode())
    c.close()
"""


def test_a_listener_on_the_pods_address_is_at_the_one_that_it_has_now(mover: Mover) -> None:
    def server(where: PodNetwork) -> Container:
        env = [f"POD_IP={where.ipv4}"]
        return mover.pod(UID, python(SERVER), netns=where.path, env=env).start()

    def answered(where: PodNetwork) -> str:
        return where.ask(socket.SOCK_STREAM, where.ipv4, 7000).decode()

    with closing(PodNetwork(7)) as before, closing(PodNetwork(8)) as since:
        old = server(before)
        old.until("listening")
        assert answered(before) == f"1 {before.ipv4}"
        mover.ask("sleep", pod=UID, reason="test")
        reboot(mover, old)
        new = server(since)
        assert mover.state(UID) == "asleep"
        assert answered(since) == f"2 {since.ipv4}"
        assert new.output() == ""


def test_what_nobody_heard_is_told_to_the_next_daemon(mover: Mover) -> None:
    """After a reboot the daemon's pod starts beside the others."""
    old = asleep(mover)
    reboot(mover, old)
    mover.pod(UID).start()

    def missed() -> list[Any]:
        return list(mover.ask("subscribe", missed=True)["missed"])

    told = eventually(missed, what="what was missed")
    assert [(m["event"], m["pod"], m["returned"]) for m in told] == [("restored", UID, True)]
    assert missed() == [], "it is told once"


def test_a_pod_that_does_not_move_asleep_wakes_at_once(mover: Mover) -> None:
    policy = {**POLICY, "move_asleep": False}
    old = asleep(mover, policy=policy)
    reboot(mover, old)
    new = mover.pod(UID, policy=policy).start()
    assert mover.state(UID) == "awake"
    goes_on(new, after=old)


def test_all_containers_of_a_pod_come_back(mover: Mover) -> None:
    policy = {**POLICY, "containers": {"app": {}, "other": {}}}
    old = mover.counting(UID, policy=policy)
    netns = Path(f"/proc/{old.pid}/ns/net")
    beside = mover.counting(UID, policy=policy, container="other", netns=netns)
    mover.ask("sleep", pod=UID, reason="test")
    reboot(mover, old, beside)
    new = mover.pod(UID, policy=policy).start()
    assert mover.state(UID) == "asleep"
    assert arrivals(mover) == [UID], "the other one is still to come"
    netns = Path(f"/proc/{new.pid}/ns/net")
    new_beside = mover.pod(UID, policy=policy, container="other", netns=netns).start()
    assert mover.state(UID) == "asleep"
    assert arrivals(mover) == []
    mover.ask("wake", pod=UID, reason="test")
    goes_on(new, after=old)
    goes_on(new_beside, after=beside)


def test_a_pod_that_ran_starts_anew(mover: Mover) -> None:
    old = asleep(mover)
    mover.ask("wake", pod=UID, reason="test")
    goes_on_here = len(old.output())
    eventually(lambda: len(old.output()) > goes_on_here, what="it runs")
    reboot(mover, old)
    starts_fresh(mover.pod(UID).start())


def test_a_container_that_ended_asleep_starts_anew(mover: Mover) -> None:
    """Its machine was not rebooted: somebody killed it, or the kernel did."""
    old = asleep(mover)
    os.kill(old.pid, signal.SIGKILL)
    assert old.wait() == 137
    old.call("delete", "--force", old.id)
    starts_fresh(mover.pod(UID).start())


def test_files_in_memory_are_lost_and_so_is_what_knows_them(mover: Mover, tmp_path: Path) -> None:
    shared = tmp_path / "shm"
    shared.mkdir()
    (shared / "file").touch()
    mounts = [
        {"destination": "/dev/shm", "type": "bind", "source": str(shared), "options": ["rbind"]}
    ]
    old = asleep(mover, mounts=mounts)
    reboot(mover, old)
    (shared / "file").unlink()
    new = mover.pod(UID, mounts=mounts)
    new.create()
    with mover.events() as events:
        new.call("start", new.id)
        told = events.until("wake-failed")
    assert told["reason"] == "FilesLost"
    assert "/dev/shm" in told["message"]
    starts_fresh(new)
    kept = mover.host.state / "architect/pods" / UID / "app/failed-1"
    assert (kept / "inventory.img").exists()
    assert arrivals(mover) == []


def test_an_image_of_which_it_is_not_known_when_it_slept_is_not_used(mover: Mover) -> None:
    """An earlier version's."""
    old = asleep(mover)
    meta = mover.host.state / "architect/pods" / UID / "app/meta.json"
    text = meta.read_text()
    assert '"run": "' in text
    meta.write_text(text.replace('"run": "', '"ran": "'))
    reboot(mover, old)
    starts_fresh(mover.pod(UID).start())
