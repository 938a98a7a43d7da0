"""The runtime's part of a move: saved before the signal, hollow at `create`, then whole."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from architect.core import wire
from architect.core.errors import Rejected
from architect.shim.packets.netns import Netns
from support.runtime import (
    DEADLINE_SECONDS,
    Container,
    DaemonDouble,
    Host,
    children,
    eventually,
    in_pod,
    python,
    spec,
)

POLICY: dict[str, Any] = {"version": 1, "migrate": "true", "containers": {"app": {}}}
COUNTING = (
    "trap 'echo got TERM; exit 5' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"
)


class Mover:
    """Does what the daemon does between two pods of one host, without its files."""

    def __init__(self, host: Host, daemon: DaemonDouble) -> None:
        self.host = host
        self.daemon = daemon
        self._uids: dict[Container, str] = {}

    def pod(
        self, uid: str, args: list[str] | None = None, *, policy: dict[str, Any] = POLICY
    ) -> Container:
        config = spec(args or ["sh", "-c", COUNTING], annotations=in_pod(uid, policy=policy))
        made = self.host.container(config, has_pipes=True)
        self._uids[made] = uid
        return made

    def counting(self, uid: str) -> Container:
        """Return a pod that has counted to three."""
        made = self.pod(uid).start()
        made.until("3\n")
        return made

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        path = self.host.run_directory / "keeper.sock"
        with wire.Client(path, timeout_seconds=DEADLINE_SECONDS) as client:
            return client.call(op, **arguments)

    def save_on_leaving(self, uid: str) -> None:
        """Answer `leaving` with yes, after the pod was saved."""

        def leaving(_: dict[str, Any]) -> dict[str, Any]:
            self.ask("capture", pod=uid, reason="test", patience_seconds=0.2)
            self.ask("depart", pod=uid, reason="test")
            return {"captured": True}

        self.daemon.answers["leaving"] = leaving

    def leave(self, pod: Container) -> None:
        """Have kubelet's signal find a daemon that saves this pod."""
        self.save_on_leaving(self._uids[pod])
        pod.kill("TERM")
        assert pod.wait() == 128 + signal.SIGTERM

    def moved(self, uid: str, *, to: str) -> tuple[Container, Path]:
        """Return a pod that counted and left, and where its files wait for another one."""
        old = self.counting(uid)
        self.leave(old)
        return old, self.bring(uid, to=to)

    def bring(self, uid: str, *, to: str) -> Path:
        """Put what was saved of one pod where another one finds it."""
        state = self.host.state / "architect"
        target = state / "arrivals" / to / "containers" / "app"
        target.mkdir(parents=True)
        for entry in ("image", "meta.json"):
            (state / "pods" / uid / "app" / entry).rename(target / entry)
        self.daemon.answers["arriving"] = {"restore": True}
        return target

    def state(self, uid: str) -> str:
        return str(self.ask("status", pod=uid)["status"]["state"])

    def kill_keeper(self) -> None:
        (warden,) = self.host.wardens()
        (keeper,) = children(warden)
        os.kill(keeper, signal.SIGKILL)
        eventually(lambda: set(children(warden)) - {keeper}, what="the next keeper")
        self.host.ask("list")

    def close(self) -> None:
        for container in self._uids:
            container.remove()


@pytest.fixture
def mover(node: Host) -> Iterator[Mover]:
    node.run_directory.mkdir(mode=0o700, exist_ok=True)
    with closing(DaemonDouble(node.run_directory)) as daemon, closing(Mover(node, daemon)) as made:
        yield made


def numbers(container: Container) -> list[int]:
    return [int(word) for word in container.output().split() if word.isdigit()]


def assert_goes_on(new: Container, *, after: Container) -> None:
    last = numbers(after)[-1]
    eventually(lambda: len(numbers(new)) > 3, what="output of the successor")
    seen = numbers(new)
    assert seen == list(range(last + 1, last + 1 + len(seen)))


def assert_starts_at_one(new: Container) -> None:
    eventually(lambda: len(numbers(new)) > 3, what="output of a fresh start")
    assert numbers(new)[:3] == [1, 2, 3]


def test_a_pod_goes_on_in_its_successor_and_never_sees_a_signal(mover: Mover) -> None:
    old = mover.counting("uid-a")
    mover.leave(old)
    assert "TERM" not in old.output()
    assert mover.state("uid-a") == "captured"
    mover.bring("uid-a", to="uid-b")
    new = mover.pod("uid-b")
    new.create()
    assert "--hollow" in new.config()["process"]["args"]
    new.call("start", new.id)
    assert_goes_on(new, after=old)
    assert mover.state("uid-b") == "awake"
    asked = [(c["op"], c["pod"], c["pod_name"], c["container"]) for c in mover.daemon.calls]
    assert asked == [
        ("arriving", "uid-a", "web-uid-a", "app"),
        ("leaving", "uid-a", "web-uid-a", "app"),
        ("arriving", "uid-b", "web-uid-b", "app"),
    ]


def test_a_successor_sleeps_wakes_and_gets_its_own_signal(mover: Mover) -> None:
    mover.moved("uid-a", to="uid-b")
    new = mover.pod("uid-b").start()
    eventually(lambda: len(numbers(new)) > 3, what="output of the successor")
    mover.ask("sleep", pod="uid-b", reason="test")
    assert mover.state("uid-b") == "asleep"
    mover.ask("wake", pod="uid-b", reason="test")
    del mover.daemon.answers["leaving"]  # nobody follows this one
    new.kill("TERM")
    assert new.wait() == 5
    assert new.output().endswith("got TERM\n")


def test_without_a_daemon_the_signal_arrives_and_a_new_pod_starts_fresh(
    node: Host, run: Callable[..., Container]
) -> None:
    container = run(spec(["sh", "-c", COUNTING], annotations=in_pod("uid-a", policy=POLICY)))
    container.until("3\n")
    container.kill("TERM")
    assert container.wait() == 5
    assert "starts fresh" in container.log.read_text()
    assert numbers(container)[0] == 1


def test_a_pod_that_does_not_migrate_asks_nobody(mover: Mover) -> None:
    container = mover.pod("uid-a", policy={**POLICY, "migrate": "false"}).start()
    container.until("3\n")
    container.kill("TERM")
    assert container.wait() == 5
    assert mover.daemon.calls == []


def test_a_sleeping_pod_is_captured_without_a_wake(mover: Mover) -> None:
    old = mover.counting("uid-a")
    mover.ask("sleep", pod="uid-a", reason="test")
    before = old.output()
    mover.leave(old)
    assert old.output() == before
    mover.bring("uid-a", to="uid-b")
    new = mover.pod("uid-b").start()
    assert_goes_on(new, after=old)


def test_until_it_departs_a_wake_undoes_the_capture(mover: Mover) -> None:
    old = mover.counting("uid-a")
    mover.ask("capture", pod="uid-a", reason="test", patience_seconds=0.2)
    assert mover.state("uid-a") == "asleep"
    mover.ask("wake", pod="uid-a", reason="cannot be saved")
    before = len(numbers(old))
    eventually(lambda: len(numbers(old)) > before, what="output after the wake")
    with pytest.raises(Rejected, match="not captured"):
        mover.ask("depart", pod="uid-a", reason="test")
    old.kill("TERM")
    assert old.wait() == 5


def test_a_captured_pod_runs_never_again(mover: Mover) -> None:
    old = mover.counting("uid-a")
    mover.ask("capture", pod="uid-a", reason="test", patience_seconds=0.2)
    mover.ask("depart", pod="uid-a", reason="test")
    with pytest.raises(Rejected, match="saved for its successor"):
        mover.ask("wake", pod="uid-a", reason="test")
    refused = old.call("exec", old.id, "true", check=False)
    assert refused.returncode != 0
    mover.kill_keeper()
    assert mover.host.ask("status", "uid-a")["state"] == "captured"
    old.kill("TERM")
    assert old.wait() == 143


def test_a_broken_image_starts_the_application_in_the_successor(mover: Mover) -> None:
    _, arrived = mover.moved("uid-a", to="uid-b")
    os.truncate(arrived / "image" / "pstree.img", 12)
    new = mover.pod("uid-b").start()
    assert_starts_at_one(new)
    kept = mover.host.state / "architect/pods/uid-b/app/failed-1/pstree.img"
    assert kept.stat().st_size == 12
    del mover.daemon.answers["leaving"]
    new.kill("TERM")
    assert new.wait() == 5


def test_the_init_that_the_image_refers_to_is_the_successors(mover: Mover) -> None:
    _, arrived = mover.moved("uid-a", to="uid-b")
    meta = json.loads((arrived / "meta.json").read_text())
    (arrived / "meta.json").write_text(json.dumps({**meta, "init_sha": "0" * 64}))
    new = mover.pod("uid-b").start()
    assert_starts_at_one(new)
    assert f"init/{'0' * 64}/init is missing" in new.log.read_text()


SERVER = """
import socket, threading, os
s = socket.create_server(("0.0.0.0", 7000))
print("listening", flush=True)
def serve(c):
    while data := c.recv(100): c.sendall(data)
    print("end of file", flush=True)
while True:
    c, _ = s.accept()
    threading.Thread(target=serve, args=(c,)).start()
"""


def test_peers_learn_at_once_that_their_connections_have_ended(mover: Mover) -> None:
    old = mover.pod("uid-a", python(SERVER)).start()
    old.until("listening")
    with _joined(old.pid) as peer, peer.connect() as connection:
        connection.sendall(b"before")
        assert connection.recv(100) == b"before"
        mover.leave(old)
        connection.settimeout(DEADLINE_SECONDS)
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
        mover.bring("uid-a", to="uid-b")
        new = mover.pod("uid-b", python(SERVER)).start()
        new.until("end of file")
    with _joined(new.pid) as peer, peer.connect() as connection:
        connection.sendall(b"after")
        assert connection.recv(100) == b"after"


RUDE = """
import socket
s = socket.create_server(("0.0.0.0", 7000))
print("listening", flush=True)
c, _ = s.accept()
print("got", c.recv(100), flush=True)
print("then", c.recv(100), flush=True)
while True:
    c, _ = s.accept()
    c.sendall(c.recv(100))
"""
"""Never answers its first client, and does not take the second one meanwhile."""


def test_conversations_that_do_not_end_are_cut_and_told(mover: Mover) -> None:
    old = mover.pod("uid-a", python(RUDE)).start()
    old.until("listening")
    with _joined(old.pid) as peer, peer.connect() as asked, peer.connect() as waiting:
        asked.sendall(b"question")
        waiting.sendall(b"hello")
        old.until("got b'question'")
        mover.leave(old)
        for connection in (asked, waiting):
            with pytest.raises(ConnectionResetError):
                connection.recv(100)
    mover.bring("uid-a", to="uid-b")
    new = mover.pod("uid-b", python(RUDE)).start()
    new.until("then b''")
    with _joined(new.pid) as peer, peer.connect() as connection:
        connection.sendall(b"after")
        assert connection.recv(100) == b"after"


class _joined:
    """Another network namespace, with a cable to that of a container."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._name = f"arch-test-{pid}"

    def __enter__(self) -> _joined:
        def ip(*words: str) -> None:
            subprocess.run(["ip", *words], check=True)

        inside = ["nsenter", f"--net=/proc/{self._pid}/ns/net"]
        ip("netns", "add", self._name)
        ip("-n", self._name, "link", "add", "a0", "type", "veth", "peer", "b0")
        ip("-n", self._name, "link", "set", "b0", "netns", str(self._pid))
        ip("-n", self._name, "addr", "add", "10.9.0.1/24", "dev", "a0")
        ip("-n", self._name, "link", "set", "a0", "up")
        subprocess.run([*inside, "ip", "addr", "add", "10.9.0.2/24", "dev", "b0"], check=True)
        subprocess.run([*inside, "ip", "link", "set", "b0", "up"], check=True)
        return self

    def connect(self) -> socket.socket:
        """Return a connection from there to the container."""
        with Netns.open(f"/run/netns/{self._name}") as netns:
            made = netns.open_socket(socket.AF_INET, socket.SOCK_STREAM)
        made.settimeout(DEADLINE_SECONDS)
        made.connect(("10.9.0.2", 7000))
        return made

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "netns", "del", self._name], check=True)


def test_a_pod_that_got_its_signal_is_not_captured_any_more(mover: Mover) -> None:
    stubborn = "trap 'echo got TERM' TERM; while :; do sleep 0.02; echo; done"
    old = mover.pod("uid-a", ["sh", "-c", stubborn]).start()
    old.until("\n\n")
    old.kill("TERM")
    old.until("got TERM")
    with pytest.raises(Rejected, match="got a signal already"):
        mover.ask("capture", pod="uid-a", reason="test", patience_seconds=0.2)


def test_a_hook_for_the_end_does_not_reach_what_goes_on_elsewhere(mover: Mover) -> None:
    old = mover.counting("uid-a")
    hook = ["sh", "-c", "echo hook >/proc/1/fd/1"]
    mover.ask("capture", pod="uid-a", reason="test", patience_seconds=0.2, ends_with=[hook])
    before = old.output()
    assert old.exec(*hook) == 0
    refused = old.call("exec", old.id, "true", check=False)
    assert refused.returncode != 0 and "saved for its successor" in refused.stderr
    assert mover.state("uid-a") == "asleep"
    assert old.output() == before
    mover.ask("wake", pod="uid-a", reason="it cannot be saved")
    assert old.exec(*hook) == 0
    old.until("hook")


CLOCK = """
import time
while True:
    print(f"{time.monotonic():.3f}", flush=True)
    time.sleep(0.02)
"""


def test_the_monotonic_clock_stands_still_on_the_way(mover: Mover) -> None:
    old = mover.pod("uid-a", python(CLOCK)).start()
    eventually(lambda: len(old.output().split()) > 3, what="output")
    mover.leave(old)
    left_at = time.monotonic()
    mover.bring("uid-a", to="uid-b")
    time.sleep(0.5)
    came_at = time.monotonic()
    new = mover.pod("uid-b", python(CLOCK)).start()
    eventually(lambda: len(new.output().split()) > 3, what="output of the successor")
    seen_at = time.monotonic()
    # Before it moved, the application read the clock of this process.
    last, first = float(old.output().split()[-1]), float(new.output().split()[0])
    assert last <= first <= seen_at - (came_at - left_at)


def test_a_signal_is_remembered_by_the_next_keeper(mover: Mover) -> None:
    stubborn = "trap 'echo got TERM' TERM; while :; do sleep 0.02; echo; done"
    old = mover.pod("uid-a", ["sh", "-c", stubborn]).start()
    old.until("\n\n")
    old.kill("TERM")
    old.until("got TERM")
    mover.kill_keeper()
    with pytest.raises(Rejected, match="got a signal already"):
        mover.ask("capture", pod="uid-a", reason="test", patience_seconds=0.2)


def test_a_capture_is_taken_up_after_the_keeper_was_killed(mover: Mover) -> None:
    old = mover.counting("uid-a")
    mover.ask("capture", pod="uid-a", reason="test", patience_seconds=0.2)
    mover.kill_keeper()
    with pytest.raises(Rejected, match="not captured"):
        mover.ask("depart", pod="uid-a", reason="test")
    mover.leave(old)
    mover.bring("uid-a", to="uid-b")
    new = mover.pod("uid-b").start()
    assert_goes_on(new, after=old)


def test_what_was_refused_is_not_tried_again_by_a_restarted_container(mover: Mover) -> None:
    _, arrived = mover.moved("uid-a", to="uid-b")
    new = mover.pod("uid-b")
    new.create()
    meta = json.loads((arrived / "meta.json").read_text())
    (arrived / "meta.json").write_text(json.dumps({**meta, "version": 99}))
    new.call("start", new.id)
    assert_starts_at_one(new)
    assert not (arrived / "image").exists()
    kept = mover.host.state / "architect/pods/uid-b/app/failed-1"
    assert (kept / "inventory.img").exists()
    assert json.loads((kept / "meta.json").read_text())["is_moved"] is True


def test_half_of_the_files_is_no_fresh_start(mover: Mover) -> None:
    _, arrived = mover.moved("uid-a", to="uid-b")
    (arrived / "layer.tar").write_bytes(b"torn")
    new = mover.pod("uid-b")
    new.create()
    new.call("start", new.id)
    assert new.wait() == 137, "kubelet makes a new one, with nothing in it"
    assert numbers(new) == []
    assert not (arrived / "image").exists()


def test_a_hollow_container_for_which_nothing_lies_there_starts_fresh(mover: Mover) -> None:
    _, arrived = mover.moved("uid-a", to="uid-b")
    new = mover.pod("uid-b")
    new.create()
    arrived.parent.parent.rename(arrived.parent.parent.with_name("taken-away"))
    new.call("start", new.id)
    assert_starts_at_one(new)
    assert "nothing came" in new.log.read_text()


def _breaking(mover: Mover, op: str, *, times: int) -> list[int]:
    """Have the daemon's double close the connection instead of its first answers to *op*."""
    told = mover.daemon.answers.get(op, {})
    broken: list[int] = []

    def answer(message: dict[str, Any]) -> dict[str, Any]:
        if len(broken) < times:
            broken.append(1)
            raise ConnectionResetError
        return told(message) if callable(told) else told

    mover.daemon.answers[op] = answer
    return broken


def test_a_daemon_that_is_restarted_answers_after_all(mover: Mover) -> None:
    old = mover.counting("uid-a")
    mover.save_on_leaving("uid-a")
    broken = _breaking(mover, "leaving", times=2)
    old.kill("TERM")
    assert old.wait() == 143
    assert len(broken) == 2
    mover.bring("uid-a", to="uid-b")
    broken = _breaking(mover, "arriving", times=2)
    new = mover.pod("uid-b").start()
    assert_goes_on(new, after=old)
    assert len(broken) == 2


def test_a_pod_that_got_no_answer_leaves_a_note(mover: Mover) -> None:
    mover.daemon.answers["arriving"] = {"ok": False, "error": {"code": "failed", "message": "no"}}
    container = mover.pod("uid-a").start()
    container.until("3\n")
    assert (mover.host.state / "architect/arrivals/uid-a.fresh").exists()
