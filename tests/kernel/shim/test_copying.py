"""A running pod is copied: it stands still for a moment, and goes on as if nothing had been."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from architect.core import wire
from architect.core.errors import Rejected, Unavailable
from support.mover import Mover, numbers
from support.neighbour import Neighbour
from support.runtime import DEADLINE_SECONDS, Container, eventually, python


@contextmanager
def copying(mover: Mover, uid: str = "uid-a") -> Iterator[wire.Client]:
    """Have the pod asleep for a copy, as long as the connection lasts at the most."""
    path = mover.host.run_directory / "keeper.sock"
    with wire.Client(path, timeout_seconds=DEADLINE_SECONDS) as client:
        client.call("copy", pod=uid, reason="test", patience_seconds=0.5)
        yield client


def copy(mover: Mover, uid: str = "uid-a") -> None:
    with copying(mover, uid) as client:
        client.call("go_on", pod=uid)


def assert_counts_on(pod: Container) -> None:
    before = len(numbers(pod))
    eventually(lambda: len(numbers(pod)) > before + 3, what="output after the copy")
    seen = numbers(pod)
    assert seen == list(range(1, len(seen) + 1))


def has_image(mover: Mover, uid: str = "uid-a") -> bool:
    return (mover.host.state / "architect/pods" / uid / "app/image/inventory.img").exists()


def test_it_goes_on_where_it_was_and_can_be_copied_and_saved_again(mover: Mover) -> None:
    pod = mover.counting("uid-a")
    for _ in range(2):
        with copying(mover) as client:
            before = pod.output()
            assert has_image(mover)
            assert mover.state("uid-a") == "falling", "nobody shall lower its requests"
            time.sleep(0.1)
            assert pod.output() == before
            client.call("go_on", pod="uid-a")
        assert mover.state("uid-a") == "awake"
        assert not has_image(mover)
        assert_counts_on(pod)
    assert pod.exec("true") == 0
    mover.leave(pod)
    assert mover.state("uid-a") == "captured"
    with pytest.raises(Rejected, match="saved for its successor"):
        copy(mover)


def test_it_sleeps_and_gets_its_signal_afterwards(mover: Mover) -> None:
    pod = mover.counting("uid-a")
    copy(mover)
    mover.ask("sleep", pod="uid-a", reason="test")
    assert mover.state("uid-a") == "asleep"
    mover.ask("wake", pod="uid-a", reason="test")
    pod.kill("TERM")
    assert pod.wait() == 5


def test_one_that_sleeps_is_copied_and_sleeps_on(mover: Mover) -> None:
    pod = mover.counting("uid-a")
    mover.ask("sleep", pod="uid-a", reason="test")
    before = pod.output()
    with copying(mover) as client:
        assert mover.state("uid-a") == "asleep"
        client.call("go_on", pod="uid-a")
    assert mover.state("uid-a") == "asleep"
    assert pod.output() == before
    mover.ask("wake", pod="uid-a", reason="test")
    assert_counts_on(pod)


def test_who_copies_is_killed_and_the_pod_goes_on(mover: Mover) -> None:
    pod = mover.counting("uid-a")
    with copying(mover):
        pass
    eventually(lambda: mover.state("uid-a") == "awake", what="wake")
    assert_counts_on(pod)


def test_who_copies_is_killed_before_it_sleeps(mover: Mover) -> None:
    pod = mover.counting("uid-a")
    path = mover.host.run_directory / "keeper.sock"
    with wire.Client(path, timeout_seconds=DEADLINE_SECONDS) as client:
        client.send("copy", pod="uid-a", reason="test", patience_seconds=0.5)
        eventually(lambda: mover.state("uid-a") == "falling", what="it has begun")
    eventually(lambda: mover.state("uid-a") == "awake", what="it is undone")
    assert_counts_on(pod)
    copy(mover)


def test_the_keeper_is_killed_and_the_pod_goes_on(mover: Mover) -> None:
    pod = mover.counting("uid-a")
    with copying(mover) as client:
        mover.kill_keeper()
        with pytest.raises(Unavailable):
            client.call("go_on", pod="uid-a")
    eventually(lambda: mover.state("uid-a") == "awake", what="wake")
    assert_counts_on(pod)
    with pytest.raises(Rejected, match="not captured"):
        mover.ask("go_on", pod="uid-a")
    copy(mover)
    assert_counts_on(pod)


def test_one_that_slept_before_sleeps_below_the_next_keeper(mover: Mover) -> None:
    pod = mover.counting("uid-a")
    mover.ask("sleep", pod="uid-a", reason="test")
    before = pod.output()
    with copying(mover):
        mover.kill_keeper()
        time.sleep(0.3)
        assert mover.state("uid-a") == "asleep"
    assert pod.output() == before
    mover.ask("wake", pod="uid-a", reason="test")
    assert_counts_on(pod)


def test_a_wake_undoes_it_and_whoever_copies_learns_that(mover: Mover) -> None:
    pod = mover.counting("uid-a")
    with copying(mover) as client:
        mover.ask("wake", pod="uid-a", reason="test")
        with pytest.raises(Rejected, match="not captured"):
            client.call("go_on", pod="uid-a")
    assert_counts_on(pod)


def test_a_signal_does_not_wait_for_it(mover: Mover) -> None:
    pod = mover.counting("uid-a")
    with copying(mover) as client:
        pod.kill("TERM")
        assert pod.wait() == 5
        with pytest.raises(Rejected):
            client.call("go_on", pod="uid-a")


def test_exec_waits_for_it(mover: Mover) -> None:
    pod = mover.counting("uid-a")
    done: list[int] = []
    with copying(mover) as client:
        thread = threading.Thread(target=lambda: done.append(pod.exec("true")))
        thread.start()
        time.sleep(0.5)
        assert not done
        client.call("go_on", pod="uid-a")
    thread.join(DEADLINE_SECONDS)
    assert done == [0]


def test_one_copy_is_made_at_a_time_and_leaving_waits_for_it(mover: Mover) -> None:
    mover.counting("uid-a")
    with copying(mover) as client:
        with pytest.raises(Rejected, match="being copied"):
            copy(mover)
        left = threading.Thread(
            target=lambda: mover.ask("capture", pod="uid-a", reason="test", patience_seconds=0.2)
        )
        left.start()
        time.sleep(0.3)
        assert left.is_alive()
        client.call("go_on", pod="uid-a")
    left.join(DEADLINE_SECONDS)
    assert mover.state("uid-a") == "falling", "it is being saved"
    mover.ask("depart", pod="uid-a", reason="test")
    assert mover.state("uid-a") == "captured"


ANSWERING = """
import socket, threading, time
s = socket.create_server(("0.0.0.0", 7000))
print("listening", flush=True)
def serve(c):
    while data := c.recv(100):
        if data.startswith(b"slowly"):
            print("asked", flush=True)
            time.sleep(3)
        c.sendall(data)
while True:
    c, _ = s.accept()
    threading.Thread(target=serve, args=(c,)).start()
"""


def ask(connection: socket.socket, text: bytes) -> bytes:
    connection.sendall(text)
    return connection.recv(100)


def test_its_connections_stay_and_what_comes_meanwhile_is_answered(mover: Mover) -> None:
    pod = mover.pod("uid-a", python(ANSWERING)).start()
    pod.until("listening")
    with Neighbour(pod.pid) as peer, peer.connect() as connection:
        assert ask(connection, b"before") == b"before"
        with copying(mover) as client:
            connection.sendall(b"meanwhile")
            connection.settimeout(0.3)
            with pytest.raises(TimeoutError):
                connection.recv(100)
            assert mover.state("uid-a") == "falling", "packets have no say"
            client.call("go_on", pod="uid-a")
        connection.settimeout(DEADLINE_SECONDS)
        assert connection.recv(100) == b"meanwhile"
        assert ask(connection, b"after") == b"after"
        with peer.connect() as another:
            assert ask(another, b"new") == b"new"
        copy(mover)
        assert ask(connection, b"again") == b"again"


def test_a_packet_that_came_meanwhile_wakes_one_that_slept(mover: Mover) -> None:
    pod = mover.pod("uid-a", python(ANSWERING)).start()
    pod.until("listening")
    with Neighbour(pod.pid) as peer, peer.connect() as connection:
        assert ask(connection, b"before") == b"before"
        mover.ask("sleep", pod="uid-a", reason="test", patience_seconds=5)
        with copying(mover) as client:
            connection.sendall(b"meanwhile")
            time.sleep(0.3)
            assert mover.state("uid-a") == "asleep"
            client.call("go_on", pod="uid-a")
        assert connection.recv(100) == b"meanwhile"


def test_a_conversation_that_does_not_end_is_not_cut(mover: Mover) -> None:
    pod = mover.pod("uid-a", python(ANSWERING)).start()
    pod.until("listening")
    with Neighbour(pod.pid) as peer, peer.connect() as connection:
        connection.sendall(b"slowly 1")
        pod.until("asked")
        connection.sendall(b" and 2")  # lies unread before it
        copy(mover)
        answer = b""
        while len(answer) < len(b"slowly 1 and 2"):
            answer += connection.recv(100)
        assert answer == b"slowly 1 and 2"
        assert ask(connection, b"after") == b"after"


DEAF = """
import socket, time
s = socket.create_server(("0.0.0.0", 7000))
print("listening", flush=True)
time.sleep(1000)
"""


def test_what_cannot_be_copied_goes_on_with_what_came_to_it(mover: Mover) -> None:
    pod = mover.pod("uid-a", python(DEAF)).start()
    pod.until("listening")
    with Neighbour(pod.pid) as peer, peer.connect() as connection:
        with pytest.raises(Rejected, match="not accepted yet"):
            copy(mover)
        assert mover.state("uid-a") == "awake"
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):  # and not reset
            connection.recv(100)
