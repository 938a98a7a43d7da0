"""The runtime's part of a move: saved before the signal, hollow at `create`, then whole."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from architect.core.errors import Rejected
from support.mover import COUNTING, POLICY, Mover, numbers
from support.neighbour import Neighbour
from support.runtime import (
    DEADLINE_SECONDS,
    Container,
    Host,
    eventually,
    in_pod,
    python,
    spec,
)


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


def test_a_pod_that_starts_from_a_saved_one_asks_at_its_start_only(mover: Mover) -> None:
    old = mover.counting("uid-a")
    mover.leave(old)
    mover.bring("uid-a", to="uid-b")
    policy = {**POLICY, "migrate": "false", "start_from": "warm"}
    new = mover.pod("uid-b", policy=policy).start()
    assert_goes_on(new, after=old)
    new.kill("TERM")
    eventually(lambda: "TERM" in new.output(), what="it gets its signal")
    assert [c["op"] for c in mover.daemon.calls if c["pod"] == "uid-b"] == ["arriving"]


@pytest.mark.parametrize(
    ("wish", "answer"),
    [
        ("retry", "hold"),
        ("fail", "hold"),
        pytest.param("fail", "nobody", marks=pytest.mark.long),  # it is waited for
    ],
)
def test_a_pod_that_wants_its_memory_is_not_made_without_it(
    mover: Mover, wish: str, answer: str
) -> None:
    policy = {**POLICY, "on_restore_failure": wish}
    held = {"restore": False, "hold": True, "reason": "Unavailable", "message": "no route"}
    mover.daemon.answers["arriving"] = held
    new = mover.pod("uid-b", policy=policy)
    with contextlib.ExitStack() as stack:
        if answer == "nobody":
            stack.enter_context(mover.daemon.away())
        assert new.create(check=False) != 0
    told = new.log.read_text()
    assert f"architect.dev/on-restore-failure is {wish}" in told
    assert "is not started without what its pod had before" in told
    assert [r for r in mover.host.ask("list")["pods"] if r["pod"] == "uid-b"] == []
    mover.daemon.answers["arriving"] = {"restore": False}
    new.start()
    assert_starts_at_one(new)


@pytest.mark.parametrize("wish", ["fresh", "retry"])
def test_a_pod_that_was_saved_before_its_machine_ends_does_not_begin_anew(
    mover: Mover, wish: str
) -> None:
    mover.daemon.answers["arriving"] = {
        **{"restore": False, "left": True, "reason": "Captured"},
        "message": "the pod was saved for its successor",
    }
    old = mover.pod("uid-a", policy={**POLICY, "on_restore_failure": wish})
    assert old.create(check=False) != 0
    assert "is not started again: the pod was saved" in old.log.read_text()
    assert [r for r in mover.host.ask("list")["pods"] if r["pod"] == "uid-a"] == []
    mover.daemon.answers["arriving"] = {"restore": False}  # its machine did not end
    old.start()
    assert_starts_at_one(old)


def hooked(*argv: str) -> dict[str, Any]:
    return {**POLICY, "containers": {"app": {"after_restore": list(argv)}}}


def test_a_hook_runs_in_the_successor_with_its_environment(mover: Mover) -> None:
    policy = hooked("sh", "-c", "echo hook of $POD as $(id -u), $$ of $PPID > /proc/1/fd/1; echo x")
    old = mover.counting("uid-a", policy=policy, env=["POD=old"])
    mover.leave(old)
    mover.bring("uid-a", to="uid-b")
    with mover.events() as events:
        new = mover.pod("uid-b", policy=policy, env=["POD=new"]).start()
        eventually(lambda: "hook of new as 0" in new.output(), what="the hook's own words")
        told = events.until("hook")
        assert (told["pod"], told["container"], told["status"]) == ("uid-b", "app", 0)
        assert (told["message"], told["is_late"]) == ("x", False)
        mover.ask("sleep", pod="uid-b", reason="test")
        mover.ask("wake", pod="uid-b", reason="test")
        events.until("woke")
    eventually(lambda: len(numbers(new)) > 3, what="output of the successor")
    assert new.output().count("hook of") == 1  # its own sleep changed nothing
    assert "hook of" not in old.output()


@pytest.mark.parametrize(
    ("argv", "status", "output"),
    [
        (["sh", "-c", "echo err >&2; exit 7"], 7, "err"),
        (["sh", "-c", "kill -9 $$"], 137, ""),
        (["no-such-program"], 255, "no-such-program"),
        # No option of the lower runtime, which would have it write a file of the host.
        (["--pid-file", "/dev/shm/architect-test-hook", "true"], 255, "--pid-file"),
        (["sh", "-c", "yes | head -c 100000; echo end"], 0, "end"),
    ],
    ids=["fails", "signal", "missing", "option", "talks"],
)
def test_a_hook_that_fails_is_told_and_the_application_goes_on(
    mover: Mover, argv: list[str], status: int, output: str
) -> None:
    old, _ = mover.moved("uid-a", to="uid-b")
    with mover.events() as events:
        new = mover.pod("uid-b", policy=hooked(*argv)).start()
        told = events.until("hook")
    assert told["status"] == status
    assert told["message"].endswith(output) or output in told["message"]
    assert len(told["message"]) <= 1024
    assert_goes_on(new, after=old)


def test_a_daemon_that_was_killed_after_it_had_begun_is_waited_for(mover: Mover) -> None:
    old = mover.counting("uid-a")
    mover.save_on_leaving("uid-a")
    with mover.daemon.away():
        # It saw the deletion before kubelet did, and was killed before the runtime asked it.
        mover.ask("capture", pod="uid-a", reason="test", patience_seconds=0.2)
        killing = threading.Thread(target=old.kill, args=("TERM",))
        killing.start()
        killing.join(1.0)
        assert killing.is_alive(), "it waits for the next daemon"
    killing.join(DEADLINE_SECONDS)
    assert old.wait() == 143
    assert "TERM" not in old.output()
    assert mover.state("uid-a") == "captured"


def test_without_a_daemon_at_work_nobody_is_waited_for(mover: Mover) -> None:
    for is_undone in (False, True):
        container = mover.counting(f"uid-{is_undone}")
        with mover.daemon.away():
            if is_undone:
                pod = f"uid-{is_undone}"
                mover.ask("capture", pod=pod, reason="test", patience_seconds=0.2)
                mover.ask("wake", pod=pod, reason="test")
            container.kill("TERM")
            assert container.wait() == 5
        assert "TERM" in container.output()


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
    new = mover.pod("uid-b", policy={**POLICY, "move_asleep": False}).start()
    assert_goes_on(new, after=old)


def test_until_it_departs_a_wake_undoes_the_capture(mover: Mover) -> None:
    old = mover.counting("uid-a")
    mover.ask("capture", pod="uid-a", reason="test", patience_seconds=0.2)
    assert mover.state("uid-a") == "falling", "to others it does not sleep"
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


def test_a_captured_pod_whose_node_ended_too_soon_has_another_life(mover: Mover) -> None:
    """Kubelet runs it again, since it could not tell anybody that it had ended it."""
    old, _ = mover.moved("uid-a", to="uid-b")
    old.remove()
    del mover.daemon.answers["arriving"]
    again = mover.counting("uid-a")
    mover.kill_keeper()
    assert mover.state("uid-a") == "awake"
    del mover.daemon.answers["leaving"]
    again.kill("TERM")
    assert again.wait() == 5


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
    with Neighbour(old.pid) as peer, peer.connect() as connection:
        connection.sendall(b"before")
        assert connection.recv(100) == b"before"
        mover.leave(old)
        connection.settimeout(DEADLINE_SECONDS)
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
        mover.bring("uid-a", to="uid-b")
        new = mover.pod("uid-b", python(SERVER)).start()
        new.until("end of file")
    with Neighbour(new.pid) as peer, peer.connect() as connection:
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
    with Neighbour(old.pid) as peer, peer.connect() as asked, peer.connect() as waiting:
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
    with Neighbour(new.pid) as peer, peer.connect() as connection:
        connection.sendall(b"after")
        assert connection.recv(100) == b"after"


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
    assert mover.state("uid-a") == "falling"
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
